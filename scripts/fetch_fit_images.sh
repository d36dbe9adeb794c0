#!/usr/bin/env bash
# Photos to fit patterns on, from Debian's gcompris-qt-data through apt: those of its photo activities that the degradation benchmark
# does not use. Usage: fetch_fit_images.sh FOLDER. models/squeezenet1_1/fit_images.txt names them; their hash is checked.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
list=$root/models/squeezenet1_1/fit_images.txt

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get download -qq gcompris-qt-data || { apt-get update -qq && apt-get download -qq gcompris-qt-data; }
dpkg-deb -x gcompris-qt-data_*.deb deb
python3 "$root/scripts/extract_rcc.py" images deb/usr/share/gcompris-qt/rcc/{categorization,clickgame,details,erase,explore_*,louis-braille}.rcc
while read -r hash path; do
    echo "$hash  images/$path"
done < <(grep -v '^#' "$list") | sha256sum --check --quiet
while read -r _ path; do
    mkdir -p "$out/$(dirname "$path")"
    cp "images/$path" "$out/$path"
done < <(grep -v '^#' "$list")
echo "$(grep -vc '^#' "$list") photos in $out"

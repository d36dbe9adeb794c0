#!/usr/bin/env bash
# Objects and scenes for BAM data as data sets of the server whose data folder is FOLDER (default: data), through apt; quick when they are there.
#   bam_objects  photo cut-outs with an alpha channel, in 10 classes     bam_scenes  photos, in 10 classes
# bam_images.txt names them with their classes; their hashes are checked.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
list=$root/scripts/bam_images.txt
mkdir -p "${1:-data}/datasets"
sets=$(cd "${1:-data}/datasets" && pwd)
if [ -e "$sets/bam_objects/current" ] && [ -e "$sets/bam_scenes/current" ]; then exit 0; fi

scratch=$(mktemp -d "$sets/.fetch.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
packages=(tuxpaint-stamps-default tuxpaint-data gcompris-qt-data lomiri-wallpapers-16.04 mate-backgrounds plasma-workspace-wallpapers lxqt-themes palapeli-data)
apt-get download -qq "${packages[@]}" || { apt-get update -qq && apt-get download -qq "${packages[@]}"; }
for package in *.deb; do dpkg-deb -x "$package" deb; done
python3 "$root/scripts/extract_rcc.py" gcompris deb/usr/share/gcompris-qt/rcc/{categorization,clickgame,details,explore_monuments}.rcc

grep -v '^#' "$list" | while read -r hash path _; do echo "$hash  $path"; done | sha256sum --check --quiet --strict
while read -r _ path class; do
  mkdir -p "$class"
  name=${path#*/share/} # Names repeat between folders.
  cp "$path" "$class/${name//\//_}"
done < <(grep -v '^#' "$list")

# A set is complete when it has a version that counts.
for kind in objects scenes; do
  mkdir -p "$sets/bam_$kind"
  rm -rf "$sets/bam_$kind/1"
  mv "$kind" "$sets/bam_$kind/1"
  printf 1 >"$sets/bam_$kind/current"
  echo "$(grep -c " $kind/" "$list") photos in $sets/bam_$kind"
done

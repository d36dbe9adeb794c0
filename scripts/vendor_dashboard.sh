#!/usr/bin/env bash
# Preact and htm, which the dashboard is written with, into dashboard/vendor/, from npm, checked by hash. They are part of the repository: run it
# for another version. With --check nothing is written: it fails where the files differ from those of npm.
set -euo pipefail
cd "$(dirname "$0")/.."

vendor=dashboard/vendor
packages="preact@11.2.0 htm@3.1.1"
hashes="3c4456766bd32b6b534d52bf4e9c2a29b33e7eedf6e96ed479300ba1a7888ebf  preact-11.2.0.tgz
2425b9bee11409177bcabc7f32e319926fc6690c1701c0b257c88bdff2d5ba90  htm-3.1.1.tgz"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if [ -x runtime/test_tools/bin/npm ]; then PATH="$PWD/runtime/test_tools/bin:$PATH"; fi
# shellcheck disable=SC2086
(cd "$scratch" && npm pack --silent $packages >/dev/null && sha256sum --check --quiet --strict - <<<"$hashes")
for package in preact htm; do
  mkdir "$scratch/$package"
  tar -xzf "$scratch/$package"-*.tgz -C "$scratch/$package" --strip-components=1
done

mkdir "$scratch/vendor"
# A browser finds modules by address.
without_map() { sed -e 's|from"preact"|from"./preact.js"|' -e 's|from *"preact"|from "./preact.js"|' -e '/^\/\/# sourceMappingURL/d' "$1"; }
without_map "$scratch/preact/dist/preact.mjs" >"$scratch/vendor/preact.js"
without_map "$scratch/preact/hooks/dist/hooks.mjs" >"$scratch/vendor/hooks.js"
without_map "$scratch/htm/dist/htm.mjs" >"$scratch/vendor/htm.js"
{
  echo "preact.js and hooks.js are of Preact 11.2.0:"
  echo
  cat "$scratch/preact/LICENSE"
  echo
  echo "htm.js is htm 3.1.1:"
  echo
  cat "$scratch/htm/LICENSE"
} >"$scratch/vendor/LICENSES.txt"

if [ "${1:-}" = --check ]; then
  diff -r "$scratch/vendor" "$vendor" >&2 || { echo "vendor_dashboard.sh: $vendor differs from npm's files: run it without --check." >&2; exit 1; }
else
  rm -rf "$vendor"
  cp -r "$scratch/vendor" "$vendor"
fi

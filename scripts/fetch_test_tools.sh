#!/usr/bin/env bash
# What tests/clients needs, into runtime/: a Python environment with OpenAPI's validator, two generators of clients, Playwright, ONNX Runtime
# and Node; another with the clients of KServe and Triton, which need other versions of some packages; onnxruntime-web 1.30.0 (33 MB) and
# axe-core 4.14.1, checked by hash; and Chromium where it is not installed, out of Debian's packages. Quick when
# they are there.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=runtime/test_tools
browser=runtime/chromium
web=runtime/onnxruntime-web
web_hash=d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71
axe=runtime/axe-core
axe_hash=e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745
mkdir -p runtime
scratch=$(mktemp -d runtime/.fetch.XXXXXX)
trap 'rm -rf "$scratch"' EXIT

python3 -c 'import ensurepip, venv' || { echo "fetch_test_tools.sh: Python's venv is needed (Debian: apt-get install python3-venv)." >&2; exit 1; }
# A Python environment with the packages of a file; quick where it has them.
environment() {
  cmp -s "$2" "$1/requirements.txt" && return
  echo "fetching $3 into $1"
  rm -rf "$1"
  python3 -m venv "$1"
  "$1/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: --requirement "$2"
  cp "$2" "$1/requirements.txt"
}
environment "$tools" tests/clients/requirements.txt "generators of clients"
environment runtime/serving_clients tests/clients/serving.txt "clients of KServe and Triton"

if ! [ -d "$web" ]; then
  echo "fetching onnxruntime-web into $web"
  npm=$PWD/$tools/bin/npm
  (cd "$scratch" && PATH="$(dirname "$npm"):$PATH" "$npm" pack --silent onnxruntime-web@1.30.0 >/dev/null)
  sha256sum --check --quiet --strict - <<<"$web_hash  $scratch/onnxruntime-web-1.30.0.tgz"
  tar -xzf "$scratch/onnxruntime-web-1.30.0.tgz" -C "$scratch" package/package.json package/dist/ort.wasm.bundle.min.mjs \
    package/dist/ort-wasm-simd-threaded.mjs package/dist/ort-wasm-simd-threaded.wasm
  mv "$scratch/package" "$web"
fi

if ! [ -d "$axe" ]; then
  echo "fetching axe-core into $axe"
  npm=$PWD/$tools/bin/npm
  (cd "$scratch" && PATH="$(dirname "$npm"):$PATH" "$npm" pack --silent axe-core@4.14.1 >/dev/null)
  sha256sum --check --quiet --strict - <<<"$axe_hash  $scratch/axe-core-4.14.1.tgz"
  mkdir "$scratch/axe"
  tar -xzf "$scratch/axe-core-4.14.1.tgz" -C "$scratch/axe" --strip-components=1 package/axe.min.js package/LICENSE
  mv "$scratch/axe" "$axe"
fi

# The dashboard's libraries are those of npm.
vendored=$(cat scripts/vendor_dashboard.sh dashboard/vendor/* | sha256sum)
if [ "$vendored" != "$(cat runtime/dashboard-vendor 2>/dev/null)" ]; then
  scripts/vendor_dashboard.sh --check
  echo "$vendored" >runtime/dashboard-vendor
fi

if command -v chromium >/dev/null || command -v chromium-headless-shell >/dev/null || [ -d "$browser" ]; then exit 0; fi

command -v apt-get >/dev/null || { echo "fetch_test_tools.sh: Chromium is needed, and fetched on Debian alone: install it." >&2; exit 1; }
echo "fetching Chromium into $browser"
# The browser and those of its libraries that are not installed.
missing() { apt-get --simulate --no-install-recommends install chromium-headless-shell | awk '/^Inst /{ print $2 }'; }
fetch() (cd "$scratch" && mapfile -t packages < <(missing) && [ ${#packages[@]} -gt 0 ] && apt-get download -qq "${packages[@]}")
fetch 2>/dev/null || { apt-get update -qq && fetch; }
for package in "$scratch"/*.deb; do dpkg-deb -x "$package" "$scratch/root"; done
mv "$scratch/root" "$browser"

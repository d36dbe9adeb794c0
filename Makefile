# On a fresh machine with Rust, Python 3 + pip, a C compiler and make: `make serve`, or `make test`.
LISTEN ?= 127.0.0.1:8080

.PHONY: serve test build runtime postgresql test_tools models datasets patterns gallery bench peers

serve: runtime build ## serve the bundled SqueezeNet (and what `make models` fetched)
	scripts/serve.sh $(LISTEN)

test: runtime models postgresql test_tools ## everything that must hold
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo test --locked

build: ## target/release/explaind
	cargo build --locked --release

runtime: ## ONNX Runtime into runtime/, checked by hash
	scripts/fetch_onnxruntime.sh

postgresql: ## for the tests of jobs, where Debian's package is not installed
	scripts/fetch_postgresql.sh

test_tools: ## generators of clients and Chromium, for the tests of the contract
	scripts/fetch_test_tools.sh

models: ## EfficientNet-Lite0 into models/efficientnet_lite0
	scripts/fetch_models.sh

datasets: ## labelled photos for benchmarks, and photos to fit patterns on, into data/datasets
	scripts/fetch_datasets.sh

patterns: runtime build ## fit the bundled SqueezeNet's patterns again
	scripts/fit_patterns.sh

gallery: runtime build ## the README's table of methods, measured, with a picture of each
	scripts/gallery.py

bench: runtime build ## core pieces, then side by side with PyTorch + Captum when `make peers` was run
	cargo bench --locked
	if [ -x benches/peers/.venv/bin/python ]; then benches/peers/.venv/bin/python benches/peers/compare.py; fi

peers: ## PyTorch, torchvision and Captum (several GB) into benches/peers/.venv, for `make bench`
	benches/peers/install.sh

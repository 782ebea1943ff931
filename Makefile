# make train   sets up, then trains a β-VAE on the full dSprites-equivalent set and draws its pictures
# make test    sets up, then runs the tests
# make bench   the benchmarks of this machine's CPU, into benchmarks/results/: about 50 minutes
# make report  all result files as tables and plots: docs/benchmarks.md
# make gpu     on a machine with an NVIDIA GPU: gpu tests and benchmarks; builds only if the CUDA library is missing
# make lint    formatting, lint, types
# make docs    sets up, then builds the documentation into site/
# make wheel   dist/*.whl: one file for torch >= 2.11 and Python >= 3.10, with CUDA kernels if nvcc is found
# make sdist   dist/*.tar.gz: the sources, for pip to build where they are installed
# make test-wheel   installs the wheel beside WHEEL_TORCH in an environment of its own, and runs the tests there
# make test-dist    installs the wheel and the sdist, each in an environment of its own, and compares what was installed
#
# Setting up means: a virtual environment in .venv, torch, this package with the libraries that can run here. What is left out
# is said at the end.

PYTHON ?= python3
TORCH ?= torch==2.13.0
WHEEL_TORCH ?= torch==2.11.0
VENV := .venv
BIN := $(VENV)/bin
# What is packed is for other machines, so it gets the CUDA kernels even if the torch here has no CUDA.
NVCC := $(firstword $(wildcard $(CUDA_HOME)/bin/nvcc /usr/local/cuda/bin/nvcc) $(shell command -v nvcc))
PACKED := $(if $(NVCC),BETAVAE_FAST_CUDA=1)
SOURCES := setup.py pyproject.toml $(shell find csrc benchmarks/floor_loops -type f)

.PHONY: setup train test bench report gpu lint docs wheel sdist test-wheel test-dist clean

setup: $(VENV)/installed

# torch first and pinned: the package is built against the torch it will run with.
$(VENV)/torch:
	@echo "Installing $(TORCH) into $(VENV)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	touch $@

$(VENV)/installed: $(VENV)/torch $(SOURCES)
	@echo "Installing the package into $(VENV) and compiling its kernels, which takes some minutes"
	$(BIN)/python -m pip install --quiet "setuptools>=77" ninja
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[test,lint,docs]'
	@sed 's/^/left out: /' betavae_fast/_build.txt
	touch $@

train: setup
	$(BIN)/betavae-fast train --recipe dsprites

# There is a worker for each core, so each has one thread: more would wait for each other, and actively keep others from their
# core. Tests of several threads ask for them. A worker without tests takes some of another's, because some take a minute.
test: setup
	OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

bench: setup
	$(BIN)/python -m benchmarks.all
	$(BIN)/python -m benchmarks.report

report: setup
	$(BIN)/python -m benchmarks.report

gpu:
	$(PYTHON) -m benchmarks.gpu

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run -Werror $$(find csrc benchmarks/floor_loops -type f)
	$(BIN)/mypy

# build/lib* holds what an earlier package had, too.
wheel: setup
	rm -rf dist/*.whl build/lib*
	$(PACKED) $(BIN)/python -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir dist .

sdist: setup
	rm -f dist/*.tar.gz
	$(BIN)/python setup.py --quiet sdist

# The checkout without the package: what is tested is what the wheel installed. Triton 3.6, which torch 2.11 brings, interprets
# kernels in a way that NumPy 2.4 refuses.
test-wheel: wheel
	rm -rf build/wheel && mkdir -p build/wheel/checkout
	git archive HEAD | tar --extract --directory build/wheel/checkout
	rm -r build/wheel/checkout/betavae_fast
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip install --quiet $(WHEEL_TORCH) 'numpy<2.4'
	build/wheel/venv/bin/python -m pip install --quiet "$$(ls dist/*.whl)[test]"
	cd build/wheel/checkout && OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 ../venv/bin/python -m pytest tests --numprocesses auto --dist worksteal

test-dist: wheel sdist
	$(PACKED) $(BIN)/python -m tools.dist $(TORCH)

# The variable silences a notice about mkdocs' future.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) build dist site *.egg-info betavae_fast/*.so betavae_fast/_build.txt

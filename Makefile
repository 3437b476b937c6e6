# `make demo` runs the bundled example, `make record` renews its results that are committed, `make test` runs all checks,
# `make test-all` the sets whole that it samples, `make test-sanitize` those of the loops in C under sanitizers, `make bench`
# the benchmarks, `make docs` writes the site to build/site, `make wheel` what is installed to dist, `make reference` the
# pages that come from code. Needed: Python >= 3.11, git, make; a C compiler is used where there is one.

PYTHON ?= python3
VENV ?= .venv
# For another package index, a mirror, or torch without CUDA: PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_ARGS ?=
# A worker starts with tests that stand side by side, which share what is expensive to set up, and helps the others at its end.
PYTEST_ARGS ?= --numprocesses auto --maxprocesses 4 --dist worksteal

export PATH := $(abspath $(VENV)/bin):$(PATH)
export DVC_NO_ANALYTICS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

SANITIZE := -g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined

.PHONY: demo record test test-sanitize test-all bench wheel docs reference lock clean
.DELETE_ON_ERROR:

demo: $(VENV)/examples
	dvc repro
	dvc metrics show compression/metrics.json

# The example's record, ready to be committed. DVC sees a new version of compressor, but not a change of its code: what
# compressor does is done anew, and trained is only what has changed.
record: $(VENV)/examples
	dvc repro
	dvc repro --force --single-item toolchain export detect compress evaluate
	git add dvc.lock compression

test: $(VENV)/dev
	ruff check .
	ruff format --check .
	mypy -p compressor -p stages -p examples
	pytest $(PYTEST_ARGS)

# The loops in C under ASan and UBSan: the package is built with them in a folder that is found before the checkout.
test-sanitize: $(VENV)/dev
	rm -rf build/sanitize
	CFLAGS="$(SANITIZE)" LDFLAGS="$(SANITIZE)" python setup.py --quiet build --build-base build/sanitize --build-lib build/sanitize/lib
	test -e build/sanitize/lib/compressor/native/loops.abi3.so
	LD_PRELOAD="$$($(CC) -print-file-name=libasan.so)" ASAN_OPTIONS=detect_leaks=0 \
		pytest --override-ini "pythonpath=build/sanitize/lib ." --numprocesses 0 --capture no tests/test_native.py tests/test_packing.py tests/test_kernels.py tests/test_gaps.py

test-all: $(VENV)/dev
	COMPRESSOR_TESTS=all pytest $(PYTEST_ARGS)

bench: $(VENV)/dev
	python -m tests.benchmarks

# dist/: the sources; a wheel of this platform with the loops in C, which serves Python from 3.11 on; and one without them.
wheel: $(VENV)/dev
	rm -rf dist
	python -c "from setuptools import build_meta; build_meta.build_sdist('dist')"
	python -m pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir dist dist/*.tar.gz
	python -m zipfile --list dist/*-abi3-*.whl | grep --quiet loops
	COMPRESSOR_PURE=1 python -m pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir dist dist/*.tar.gz
	@ls dist

docs: $(VENV)/docs
	sphinx-build --quiet --fresh-env --write-all --fail-on-warning --keep-going --doctree-dir build/doctrees docs build/site
	@echo build/site/index.html

reference: $(VENV)/dev
	python -m compressor.stages.reference docs

# A stamp a set of extras: an environment that is there already installs nothing.
$(VENV)/%: pyproject.toml setup.py $(wildcard compressor/native/*.[ch]) constraints.txt | $(VENV)/pyvenv.cfg
	python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt --editable '.[$*]'
	touch $@

$(VENV)/pyvenv.cfg:
	$(PYTHON) -m venv $(VENV)

lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet $(PIP_ARGS) '.[dev]'
	{ sed -n '/^#/p' constraints.txt; build/lock/bin/python -m pip freeze | sed -e '/^compressor/d' -e 's/+.*//'; } > build/constraints.txt
	mv build/constraints.txt constraints.txt

clean:
	rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache dvc_plots

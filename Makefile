# `make profile` and `make test` set everything up on a fresh machine and run. Options, read when .venv is made:
#   PYTHON=python3.12                     the interpreter, 3.11 or newer
#   VENV_FLAGS=--system-site-packages     keep the torch that PYTHON has already, if pyproject.toml accepts it
# `make clean` removes .venv and everything else that was made here.

PYTHON = python3
VENV_FLAGS =

VENV = .venv
RUN = $(VENV)/bin/python -m
PIP = $(RUN) pip

.PHONY: profile test test-all bench-peers demos gpu clean
.DELETE_ON_ERROR:

profile: $(VENV)/installed
	$(VENV)/bin/minibench profile parti-20b-config

test: $(VENV)/installed-test
	OMP_NUM_THREADS=1 $(RUN) pytest -n 2 --dist loadgroup
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(RUN) pytest -n 2 tests/kernels

test-all: $(VENV)/installed-test
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) pyright --pythonpath $(VENV)/bin/python
	OMP_NUM_THREADS=1 $(RUN) pytest -n 2 --dist loadgroup -m "not gpu"
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(RUN) pytest -n 2 tests/kernels -m "not gpu"

# UNets beside those of diffusers, about ten minutes on two cores.
bench-peers: $(VENV)/installed-test
	$(RUN) tests.parity.bench_peers

# The demos, one after another, their results into results/demos/: about an hour on two idle cores. What is finished is
# skipped, what was killed goes on. `make demos FAMILIES=video SEEDS=0` runs one.
FAMILIES = pixel-diffusion latent-diffusion autoregressive parallel-decoding video
SEEDS = 0 1 2
demos: $(foreach family,$(FAMILIES),$(foreach seed,$(SEEDS),results/demos/$(family)-$(seed).json))

results/demos/%.json: | $(VENV)/installed
	mkdir -p results/demos
	$(VENV)/bin/minibench demo $(shell echo $* | sed 's/-[0-9]*$$//') --seed $(shell echo $* | sed 's/.*-//') --out demos/$*
	cp demos/$*/result.json $@

# All that needs a GPU, into results/GPU/, in parts of at most nine minutes: a part with a result is skipped unless
# FORCE=1. From the checkout, with the torch that PYTHON has; `make gpu PARTS="ceilings tests"` runs these parts, and
# `make gpu-ceilings` one.
PARTS =
gpu:
	$(PYTHON) -m minimodels.sim.gpu_parts $(PARTS)

gpu-%:
	$(PYTHON) -m minimodels.sim.gpu_parts $*

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv --clear $(VENV_FLAGS) $(VENV)
	touch $@

# constraints.txt, unless the system packages are visible and hold a torch that will do. Then all that is
# there stays, since torch ties its triton, setuptools and CUDA libraries to versions of its own, and
# constraints.txt speaks only for what is missing.
$(VENV)/constraints.txt: pyproject.toml constraints.txt Makefile | $(VENV)/created
	cp constraints.txt $@
	@if grep -q '^include-system-site-packages = true' $(VENV)/pyvenv.cfg; then \
	    $(PIP) install --quiet --no-deps -e . && \
	    $(PIP) list --format=freeze > $(VENV)/found.txt && \
	    if ! $(PIP) check | grep '^minimodels .* torch\b'; then \
	        sed 's/^/^/; s/==.*/==/' $(VENV)/found.txt | grep -vi -f - constraints.txt > $@; \
	        grep '^torch==' $(VENV)/found.txt | tee -a $@; \
	    fi; \
	fi

# torch comes first and pinned: left to itself, pip takes the newest and gigabytes of CUDA libraries with it.
$(VENV)/installed: $(VENV)/constraints.txt
	$(PIP) install -c $< torch
	$(PIP) install -c $< -e .
	touch $@

$(VENV)/installed-test: $(VENV)/constraints.txt $(VENV)/installed
	$(PIP) install -c $< -e '.[test]'
	touch $@

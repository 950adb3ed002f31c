# Two commands to know: `make demo` and `make test`. Each sets up .venv by itself and is quick the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 5000
# The environment is made again only when what it is made from changes.
STAMP := $(VENV)/.ready-$(shell cat pyproject.toml constraints.txt | cksum | tr ' ' '-')

.PHONY: demo test test-slurm dev-cluster setup lint dashboard tracking-server bench bench-gpu
.DEFAULT_GOAL := demo

demo: setup
	$(BIN)/python launch.py sweep=scaling_demo

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slurm"

# Whole studies on a real SLURM; on the dev cluster, which is started for them where it is not up.
test-slurm: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slurm --durations=10

# Measures this machine, in about a quarter of an hour, and remakes the tables of docs/benchmarks.md.
# ONLY=NAME for one, LONG=1 for those left out, LIST=1 to see them all. On a quiet machine.
bench: setup
	$(BIN)/python benchmarks/suite.py $(if $(LIST),--list) $(if $(LONG),--long) $(if $(ONLY),--only $(ONLY))

# All that needs a GPU; PARTS=check,step,... for some of it (benchmarks/gpu.py).
bench-gpu: setup
	$(BIN)/python benchmarks/suite.py --gpu $(if $(PARTS),--parts $(PARTS))

# A SLURM of two nodes on this machine, to try the launcher; launchers/dev_cluster/down.sh stops it.
dev-cluster:
	launchers/dev_cluster/up.sh

lint: setup
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Only this machine can reach it; no pickle in an artifact is ever loaded.
dashboard: setup
	mkdir -p runs
	MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false MLFLOW_DISABLE_TELEMETRY=true \
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow server \
		--backend-store-uri sqlite:///runs/mlflow.db --default-artifact-root runs/artifacts \
		--host 127.0.0.1 --port $(PORT) --workers 1

# For many jobs at once (tracking.uri=http://HOST:PORT). BACKEND=postgresql://... for another database than SQLite,
# handed on by the environment alone; HOST= to be reached from other machines, by the names in ALLOWED_HOSTS=.
tracking-server: setup
	@$(BIN)/python -m adit_scale.tracking serve --port $(PORT) $(if $(WORKERS),--workers $(WORKERS)) \
		$(if $(filter command,$(origin HOST)),--host $(HOST)) --allowed-hosts '$(ALLOWED_HOSTS)'

setup: $(STAMP)

# Compiled on all cores behind pip, which would use one; a file that is no Python of this version harms nobody.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "Python 3.10 or later is needed, this is " + sys.version.split()[0] + "; set PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --no-compile -c constraints.txt -e '.[dev]'
	$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') || true
	rm -f $(VENV)/.ready-*
	touch $@

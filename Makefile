# Everything a fresh machine needs: `make demo`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# PyTorch's own index of builds without CUDA; used only when pip has no such build at hand.
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
TORCH := 2.13.0
export PYTHON VENV TORCH TORCH_CPU_INDEX

.PHONY: demo test test-heavy test-agents check setup clean verify-tasks make-tasks
demo: $(VENV)/.train
	$(BIN)/m2gym demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadscope

test-heavy: $(VENV)/.dev
	$(BIN)/python -m pytest -m heavy

# Installs and runs all third-party agents (3.6 GB in the cache, half an hour the first time).
test-agents: $(VENV)/.dev
	$(BIN)/python -m pytest -m agents

# Judges every shipped task of swe-repo again; stopped, it goes on where it was.
verify-tasks: $(VENV)/.dev
	$(BIN)/m2gym tasks verify; status=$$?; $(BIN)/m2gym tasks page && exit $$status

# Every attack on every registered environment (hours; stopped, it goes on where it was).
.PHONY: attacks
attacks: $(VENV)/.dev
	$(BIN)/python -m m2gym.rollout.attacks.sweep build/attacks
	$(BIN)/python -m m2gym.rollout.attacks.sweep build/attacks --page docs/security.md

# Makes the tasks anew from the package registry into OUT; ONLY="funcy parse": of these packages.
make-tasks: $(VENV)/.dev
	$(BIN)/python -m m2gym.tasksets.injected.produce --out $(or $(OUT),build/tasks) --only $(ONLY)
	$(BIN)/python -m m2gym.tasksets.version_diffs.pairs shipped $(or $(OUT),build/tasks)/pairs --data $(or $(OUT),build/tasks) --only $(ONLY)

check: $(VENV)/.dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

setup: $(VENV)/.dev

$(VENV)/.base: pyproject.toml scripts/setup
	scripts/setup base

$(VENV)/.train: pyproject.toml scripts/setup
	scripts/setup train

$(VENV)/.dev: pyproject.toml scripts/setup
	scripts/setup dev

clean:
	rm -rf $(VENV) $(PEERS) $(VERL_ENV) $(INSPECT)

# Losses against TRL's and verl's own, TRL in our environments, W&B and MLflow: in an environment
# of theirs.
PEERS := .venv-peers

.PHONY: test-peers
test-peers: $(PEERS)/.made
	$(PEERS)/bin/python -m pytest -m peers tests/forge tests/backends

$(PEERS)/.made: scripts/setup-peers
	PEERS=$(PEERS) scripts/setup-peers

# The same training under verl, on the CPU, in an environment of its own.
VERL_ENV := .venv-verl

.PHONY: test-verl
test-verl: $(VERL_ENV)/.made
	$(VERL_ENV)/bin/python -m pytest -m verl $(AGAIN) tests/backends/verl
	$(VERL_ENV)/bin/python -m pytest tests/rollout/test_ray.py

$(VERL_ENV)/.made: pyproject.toml scripts/setup-verl
	VERL_ENV=$(VERL_ENV) scripts/setup-verl

# Inspect's own check of sandboxes over our workspaces, in an environment of its own.
INSPECT := .venv-inspect

.PHONY: test-inspect
test-inspect: $(INSPECT)/.made $(VENV)/.dev
	$(INSPECT)/bin/python -m pytest -m peers tests/workspaces/test_inspect.py
	M2GYM_PEERS_PYTHON=$(INSPECT)/bin/python $(BIN)/python -m pytest -m peers tests/rollout/test_inspect_log.py

$(INSPECT)/.made: pyproject.toml
	$(PYTHON) -m venv $(INSPECT)
	$(INSPECT)/bin/pip install -q inspect_ai==0.3.285 pytest pytest-asyncio pytest-timeout -e .[docker]
	touch $@

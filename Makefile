PYTHON ?= python3
BIN = .venv/bin
# So many processes run the tests; each waits for more than half of its time.
TESTERS ?= 5
# How much the C compiler optimizes what is compiled for the tests; a wheel has 3, which takes minutes more.
OPTIMIZE ?= 0

.PHONY: run test bytecode tools wheel lint autobahn bench bench-dialects soak verify clean

run: .venv/run
	@exec $(BIN)/raiden

# Bytecode is kept, or each of the thousand processes that are started would compile what it imports; the testers, which
# all begin at once, find that of the tests.
test:
	@$(MAKE) --no-print-directory --jobs 2 bytecode tools
	@PYTHONDONTWRITEBYTECODE= TESTS_OPTIMIZE=$(OPTIMIZE) $(BIN)/python -m pytest -n $(TESTERS)

bytecode: .venv/test
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --collect-only -qq >/dev/null || true

tools:
	@PYTHON=$(PYTHON) tests/setup.sh

# The same, faster: what a message passes through is compiled, which takes a C compiler.
wheel: .venv/wheel
	@RAIDEN_COMPILE=1 $(BIN)/pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir dist .

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

autobahn: .venv/test
	$(BIN)/python tests/autobahn/run.py

bench: .venv/bench
	@rm -f build/benchmarks.jsonl
	$(BIN)/python benchmarks/compare.py
	$(BIN)/python benchmarks/report.py
	$(BIN)/python benchmarks/cluster.py
	$(BIN)/python benchmarks/history.py
	$(BIN)/python benchmarks/zeromq.py
	$(BIN)/python benchmarks/attacks.py

# Raiden by the protocols of other servers, beside those; all or some of them: DIALECTS=cable,pusher. ROUNDS=5.
DIALECTS ?= cable,centrifuge,pusher
ROUNDS ?= 3
bench-dialects: .venv/bench
	@rm -f build/dialects.jsonl
	$(BIN)/python benchmarks/compare.py --workload dialects,dialects-full,dialects-idle --door $(DIALECTS) \
		--rounds $(ROUNDS) --results build/dialects.jsonl
	@$(BIN)/python benchmarks/report.py --tables --results build/dialects.jsonl

soak: .venv/test
	$(BIN)/python benchmarks/soak.py

# An hour of trials of what a cluster promises; takes root, `ip` and redis-server. VERIFY="--seconds 600 --seed 1".
verify: .venv/test
	$(BIN)/python -m tests.independent $(VERIFY)

.venv/run: setup.py pyproject.toml
	@echo "Raiden and what it needs are installed in .venv, once: this takes a minute or two" >&2
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/wheel: .venv/run
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[wheel]'
	@touch $@

.venv/test: setup.py pyproject.toml
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch .venv/run $@

.venv/bench: .venv/run
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[bench]'
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache

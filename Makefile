# `make demo` and `make test` need nothing but Python 3.11 or 3.12, or uv, which brings one: both bring
# .venv up to date first.
#
# PYTHON=/path/to/python3.12  the Python to build .venv with
# ARGS="-k router -x"         more options for pytest
# pip reads its own settings as ever (PIP_EXTRA_INDEX_URL for another build of torch, PIP_CACHE_DIR, ...).

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH
export PYTHON

# the environment's commands first, for scripts that call fairseq-train and the like by name
run_in_venv = PATH="$$PWD/.venv/bin:$$PATH" .venv/bin/python
# worksteal keeps the tests of a file, which share what they train, on one worker where it can
run_tests = OMP_NUM_THREADS=1 $(run_in_venv) -m pytest -n 2 --dist worksteal --durations=10

help:
	@echo "make demo    set up, then train 30 directions on phrases, score, extract sub-networks: 5 to 10 minutes"
	@echo "make test    set up, then lint and the tests of every module"
	@echo "make test-all  the same with slow tests: all cases, trainings on several ranks, kills, recipes"
	@echo "make lint    set up, then ruff and mypy"
	@echo "make setup   bring .venv up to date with setup.py and constraints.txt"

demo: setup
	@$(run_in_venv) examples/demo/run.py

test: lint
	@$(run_tests) -m "not gpu and not slow" $(ARGS)

test-all: lint
	@$(run_tests) -m "not gpu" $(ARGS)

lint: setup
	@$(run_in_venv) -m ruff check .
	@$(run_in_venv) -m mypy

setup:
	@bash -c "$$SETUP"

define SETUP
set -euo pipefail

fits() {  # is this a Python that we support?
  "$$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
}

unlink_venv() {  # --clear would empty the folder that a link leads to
  [ ! -L .venv ] || rm .venv
}

new_venv() {
  if [ -n "$${PYTHON:-}" ]; then set -- "$$PYTHON"; else set -- python3 python3.12 python3.11; fi
  fitting=
  for python in "$$@"; do
    fits "$$python" || continue
    fitting=$$python
    "$$python" -c 'import ensurepip, venv' 2>/dev/null || continue
    echo "set-up 1/4: .venv, with $$("$$python" --version)"
    unlink_venv
    "$$python" -m venv --clear .venv
    return
  done
  if [ -z "$${PYTHON:-}$$fitting" ] && command -v uv > /dev/null; then
    echo "set-up 1/4: .venv, with Python 3.12 of uv"
    unlink_venv
    uv venv --quiet --clear --seed --python 3.12 .venv
    return
  fi
  if [ -n "$$fitting" ]; then
    echo "make setup: $$fitting has no venv module; install it (Debian, Ubuntu: apt install python3-venv)" >&2
  else
    echo "make setup: no Python 3.11 or 3.12 (tried: $$*); install one, or uv, or name it with PYTHON=/path/to/python3.12" >&2
  fi
  exit 1
}

install() {
  # --no-warn-conflicts: that torchaudio is missing (see setup.py) is no news
  .venv/bin/python -m pip install -qq --disable-pip-version-check --no-input --no-warn-conflicts \
    --use-pep517 -c constraints.txt "$$@"
}

# the content of these files, and the folder: a virtual environment that was moved or copied is broken
here=$$(pwd -P)
state="$$(cat Makefile setup.py pyproject.toml constraints.txt | cksum) $$here"
stamp=.venv/setup-state
last=$$(cat $$stamp 2>/dev/null || true)

fits .venv/bin/python || last=broken
[ "$$last" != "$$state" ] || exit 0
case "$$last" in
  *" $$here" | "") ;;  # ours, or made by hand: go on from what is there
  *) new_venv ;;
esac
echo "unfinished $$here" > $$stamp
echo "set-up 2/4: torch"
# first and pinned, so that nothing below can ask for another build of it
install torch
echo "set-up 3/4: fairseq"
# without its dependencies: it asks for torchaudio, see setup.py
install --no-deps ve-fairseq
echo "set-up 4/4: fairseq-taskmoe and its tools"
install -e '.[data,dev,hf,plot,serve]'
echo "$$state" > $$stamp
echo "set-up done in $$SECONDS s"
endef
export SETUP

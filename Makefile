# Every target stands on its own on a machine that has Python 3.11 or newer and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Environments of their own: frameworks bring plugins and pins that the core's tests do without.
LANGCHAIN := .venv-langchain
LLAMA_INDEX := .venv-llama-index

.PHONY: setup demo test test-langchain test-llama-index lint clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
	  f"seka-rag needs Python 3.11 or newer, $(PYTHON) is {v.major}.{v.minor}: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
# torch goes first and alone: nothing else may choose another build of it.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/python examples/demo.py

test: $(READY)
	$(BIN)/python -m pytest

$(LANGCHAIN)/.ready: pyproject.toml constraints.txt integrations/langchain-seka/pyproject.toml
	$(PYTHON) -m venv $(LANGCHAIN)
	$(LANGCHAIN)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(LANGCHAIN)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  -e '.[structured]' -e 'integrations/langchain-seka[test]'
	touch $@

test-langchain: $(LANGCHAIN)/.ready
	cd integrations/langchain-seka && ../../$(LANGCHAIN)/bin/python -m mypy langchain_seka
	cd integrations/langchain-seka && ../../$(LANGCHAIN)/bin/python -m pytest

$(LLAMA_INDEX)/.ready: pyproject.toml constraints.txt integrations/llama-index-llms-seka/pyproject.toml
	$(PYTHON) -m venv $(LLAMA_INDEX)
	$(LLAMA_INDEX)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(LLAMA_INDEX)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  -e '.[structured]' -e 'integrations/llama-index-llms-seka[test]'
	touch $@

test-llama-index: $(LLAMA_INDEX)/.ready
	cd integrations/llama-index-llms-seka && ../../$(LLAMA_INDEX)/bin/python -m mypy \
	  -p llama_index.llms.seka -p llama_index.postprocessor.seka -p llama_index.retrievers.seka
	cd integrations/llama-index-llms-seka && ../../$(LLAMA_INDEX)/bin/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict seka_rag

clean:
	rm -rf $(VENV) $(LANGCHAIN) $(LLAMA_INDEX) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist

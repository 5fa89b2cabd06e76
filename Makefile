# What a person and CI do here. Every target sets up .venv by itself when pyproject.toml or constraints.txt changed.

PYTHON ?= python3
RUN ?= runs/demo
PROMPTS ?=
SET ?=
BUILDER ?= docker
BUILD_FLAGS ?=
QUICK ?=
BASE ?= docker.io/library/debian:bookworm-slim

BIN := .venv/bin
INSTALLED := .venv/installed
export DVC_NO_ANALYTICS := 1

.DEFAULT_GOAL := help
.PHONY: help install run test test-all check bench science site images miniature clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(INSTALLED) ## Set up .venv

run: $(INSTALLED) ## Prompts to a published model, in minutes [PROMPTS=file] [SET="steps=20 processes=2"] [RUN=folder]
	$(BIN)/drtune-pipeline run --out $(RUN) --overwrite $(if $(PROMPTS),--prompts $(PROMPTS)) $(addprefix --set ,$(SET))

test: check ## What CI checks on every push, in minutes: check, and all tests but the slow ones
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow"

test-all: check ## Everything: kills, several nodes, plans of large models, every command of the README too
	OMP_NUM_THREADS=1 $(BIN)/pytest

check: $(INSTALLED) ## Style, types, borders between the rooms, and the compiled pipeline
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/drtune-pipeline compile --check

bench: $(INSTALLED) ## Memory and time of an update, in a few minutes (docs/performance.md)
	OMP_NUM_THREADS=1 TRANSFORMERS_VERBOSITY=error sh -ec 'for what in memory step_time autograd; do \
		$(BIN)/python -m benchmarks.$$what; done'

science: $(INSTALLED) ## The paper's claims tried on the miniature: a night (docs/science-design.md) [QUICK=1 CLAIMS= SEEDS= RATES= EARLIER=]
	OMP_NUM_THREADS=1 TRANSFORMERS_VERBOSITY=error $(BIN)/python -m science $(if $(QUICK),--quick,--page docs/science.md) \
		$(if $(CLAIMS),--claims $(CLAIMS)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(RATES),--rates $(RATES)) \
		$(if $(EARLIER),--earlier $(EARLIER))

site: $(INSTALLED) ## The documentation site, in build/site; a link that leads nowhere fails it
	$(BIN)/pip install -q --disable-pip-version-check -e '.[docs]' -c constraints.txt
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

images: ## Build both container images of this commit (docs/cluster.md) [BUILDER=podman] [BUILD_FLAGS=...] [BASE=image]
	@test -d .git || { echo "error: no .git folder here, as in a linked worktree; build from a clone" >&2; exit 2; }
	@test -z "$$(git status --porcelain)" || { echo "error: images hold a commit; commit or stash first:" >&2; \
		git status --short >&2; exit 2; }
	$(call image,PLATFORM_IMAGE,pipeline$(comma)hub)
	$(call image,TRAINER_IMAGE,pipeline$(comma)train$(comma)quantized)

comma := ,
image = SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BUILDER) build -f images/Containerfile $(BUILD_FLAGS) \
	--build-arg BASE=$(BASE) --build-arg EXTRAS=$(2) --build-arg REVISION=$$(git rev-parse HEAD) \
	--build-arg DRTUNE_IMAGE_REGISTRY=$$DRTUNE_IMAGE_REGISTRY --build-arg DRTUNE_IMAGE_TAG=$$DRTUNE_IMAGE_TAG \
	-t $$($(PYTHON) -c 'from components import images; print(images.$(1))') .

miniature: $(INSTALLED) ## Train the embedded model anew, in about an hour
	$(BIN)/python -m tools.miniature.build

clean: ## Remove runs/ and caches, but not .venv
	rm -rf runs build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv, which takes some minutes the first time"
	$(BIN)/pip install -q --disable-pip-version-check -e '.[train,quantized,pipeline,hub,dev]' -c constraints.txt
	@touch $@

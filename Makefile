# make demo    ray-traced scenes through all phases, and a report to look at
# make test    linters, types, tests and coverage
SHELL := bash
PYTHON := .venv/bin/python
RUN := $(PYTHON) scripts

.PHONY: env demo test test-slow test-slurm lint bench clean-demo

env:
	@bash scripts/00_setup_env.sh --venv

demo: env
	@$(RUN)/make_demo_scenes.py --raw_root data
	@$(RUN)/01_validate_dataset.py
	@$(RUN)/02_deblur.py
	@$(RUN)/03_depth.py
	@$(RUN)/04_calibrate_coc.py
	@$(RUN)/04_calibrate_coc.py --confirm --keep_confirmed
	@$(RUN)/05_render_and_labels.py --num_sets 2
	@$(RUN)/06_validate_outputs.py --if_changed
	@echo "The report: file://$(CURDIR)/output/report/index.html"

lint: env
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

test: lint
	@$(PYTHON) -m pytest -n 2 --dist loadgroup -rs --cov --cov-report=term

test-slow: env
	@$(PYTHON) -m pytest -m slow -n 2

test-slurm: env
	@BOKEHFLOW_NEED_SLURM=1 $(PYTHON) -m pytest tests/slurm -rs --durations=5

bench: env
	@$(PYTHON) benchmarks/lens_blur.py
	@$(PYTHON) benchmarks/pipeline_overhead.py

clean-demo:
	rm -rf data output
	find logs -mindepth 1 -not -name .gitkeep -delete

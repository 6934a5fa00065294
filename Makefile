# make demo        ray-traced scenes through all phases, a network trained on them, and a report to look at
# make test        while working: linters, types and every test that takes seconds
# make test-all    the same, and then the rest: a SLURM cluster, a browser, long kill campaigns; with coverage
SHELL := bash
PYTHON := .venv/bin/python
RUN := $(PYTHON) scripts
# A process a core, each with one thread: on two cores that is a third less work than four threads that wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 --dist worksteal

.PHONY: env demo test test-all test-slow torture test-slurm lint bench gpu clean-demo

env:
	@bash scripts/00_setup_env.sh --venv

# Everything of the demo lies in demo/, so that one's own data/, output/, runs/ and logs/ are never touched.
ROOTS := --raw_root demo/data --out_root demo/output --logs demo/logs

demo: env
	@$(RUN)/make_demo_scenes.py --raw_root demo/data
	@$(RUN)/01_validate_dataset.py $(ROOTS)
	@$(RUN)/02_deblur.py $(ROOTS)
	@$(RUN)/03_depth.py $(ROOTS)
	@$(RUN)/04_calibrate_coc.py $(ROOTS) --lens_prior visible
	@$(RUN)/04_calibrate_coc.py $(ROOTS) --confirm --keep_confirmed
	@$(RUN)/05_render_and_labels.py $(ROOTS) --num_sets 2
	@$(RUN)/06_validate_outputs.py $(ROOTS) --if_changed
	@$(PYTHON) -m model.train --config model/configs/demo.toml
	@$(MAKE) --no-print-directory demo/runs/demo/.shown
	@echo "The report: file://$(CURDIR)/demo/output/report/index.html"

# The trained network measured, applied and shown: made again when there is a newer checkpoint.
demo/runs/demo/.shown: demo/runs/demo/best.json
	@$(PYTHON) -m model.evaluate demo/runs/demo --data_root demo/output --max_frames 8
	@$(RUN)/apply_bokeh.py demo/output/bear/frames_sharp --checkpoint demo/runs/demo --f_number 1.4 --focal_mm 50 \
		--focus_pull 0:1.5,0.95:12 --overwrite -o demo/runs/demo/applied
	@$(PYTHON) -m model.report demo/runs/demo --out_root demo/output --applied demo/runs/demo/applied \
		--applied_caption "A focus pull from 1.5 m to 12 m at 50 mm, f/1.4, through the network: first, middle and last frame"
	@$(PYTHON) -m pipeline report $(ROOTS)
	@touch $@

lint: env
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

test: lint
	@$(PYTEST) -rs $(COVERAGE)

# The first half runs without a report of its own; the second adds to it and prints both.
test-all: COVERAGE = --cov --cov-report=
test-all: test
	@$(PYTEST) -rs -m "(slow or slurm or browser) and not gpu" --cov --cov-append --cov-report=term

MINUTES ?= 10
torture: env
	@PYTHONPATH=tests:. $(PYTHON) -m torture --minutes $(MINUTES)

test-slow: env torture
	@$(PYTEST) -m "slow and not gpu"

test-slurm: env
	@BOKEHFLOW_NEED_SLURM=1 $(PYTHON) -m pytest tests/slurm -m slurm -rs --durations=5

bench: env
	@$(PYTHON) benchmarks/lens_blur.py
	@$(PYTHON) benchmarks/pipeline_overhead.py
	@$(PYTHON) benchmarks/startup.py
	@$(PYTHON) benchmarks/dispatch.py
	@$(PYTHON) benchmarks/recurrence.py
	@$(PYTHON) benchmarks/bokehflow.py --quick
	@$(PYTHON) benchmarks/vda.py --quick
	@$(PYTHON) benchmarks/genfocus.py --quick
	@$(PYTHON) benchmarks/sdxl.py --quick

# On a machine with a GPU, torch and no network: what fits into the minutes, in the order of its worth; again for the rest.
gpu:
	@$(if $(wildcard $(PYTHON)),$(PYTHON),python3) benchmarks/gpu.py --minutes $(or $(GPU_MINUTES),13)

clean-demo:
	rm -rf demo

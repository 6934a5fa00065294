#!/usr/bin/env bash
#SBATCH --job-name=run_phases_1_4
#SBATCH --output=logs/%x_%j.log
#SBATCH --open-mode=append
#SBATCH --time=01:00:00
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#
#   sbatch jobs/run_phases_1_4.sh                                  index; arrays for deblur and depth; calibration
#   sbatch jobs/run_phases_1_4.sh --deblur_args "--engine genfocus" --depth_args "--engine vda"
#   bash jobs/run_phases_1_4.sh --dry_run                          the plan and the sbatch files; submits nothing
#   bash jobs/run_phases_1_4.sh --local                            the same without SLURM, on this machine
#
# Checks the raw scenes, submits the first arrays with a gate behind them, prints their ids, and ends. Afterwards:
#   python scripts/04_calibrate_coc.py --confirm
set -euo pipefail
. "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}/jobs/common.sh"
exec python -m pipeline.cluster 1-4 "$@"

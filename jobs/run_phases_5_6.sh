#!/usr/bin/env bash
#SBATCH --job-name=run_phases_5_6
#SBATCH --output=logs/%x_%j.log
#SBATCH --open-mode=append
#SBATCH --time=01:00:00
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#
#   sbatch jobs/run_phases_5_6.sh                                  render arrays, then validation and the report
#   sbatch jobs/run_phases_5_6.sh --render_args "--num_sets 2"
#   bash jobs/run_phases_5_6.sh --dry_run
#   bash jobs/run_phases_5_6.sh --local
#
# max_coc must be confirmed. Submits the arrays with a gate behind them, prints their ids, and ends.
set -euo pipefail
. "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}/jobs/common.sh"
exec python -m pipeline.cluster 5-6 "$@"

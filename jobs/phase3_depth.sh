#!/usr/bin/env bash
#SBATCH --job-name=phase3_depth
#SBATCH --output=logs/%x_%j.log
#SBATCH --open-mode=append
#SBATCH --time=00:15:00
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#
#   sbatch jobs/phase3_depth.sh                      phase 3 of every scene that lacks it, as an array
#   sbatch jobs/phase3_depth.sh --scene bear         flags of scripts/03_depth.py follow as they are
#   bash jobs/phase3_depth.sh --dry_run
set -euo pipefail
. "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}/jobs/common.sh"
exec python -m pipeline.cluster depth "$@"

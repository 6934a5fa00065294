#!/usr/bin/env bash
#SBATCH --job-name=phase5_render
#SBATCH --output=logs/%x_%j.log
#SBATCH --open-mode=append
#SBATCH --time=00:15:00
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#
#   sbatch jobs/phase5_render.sh                      phase 5 of every scene that lacks it, as an array
#   sbatch jobs/phase5_render.sh --scene bear         flags of scripts/05_render_and_labels.py follow as they are
#   bash jobs/phase5_render.sh --dry_run
set -euo pipefail
. "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}/jobs/common.sh"
exec python -m pipeline.cluster render "$@"

#!/usr/bin/env bash
#SBATCH --job-name=test_bear
#SBATCH --output=logs/%x_%j.log
#SBATCH --open-mode=append
#SBATCH --time=06:00:00
#SBATCH --cpus-per-task=8
#SBATCH --mem=80G
#SBATCH --gpus=1
#SBATCH --requeue
#SBATCH --signal=B:USR2@120
#
#   sbatch jobs/test_bear.sh                       one scene through phases 1 to 6 in one job, into output/test
#   sbatch jobs/test_bear.sh --scene street --deblur_args "--engine genfocus" --depth_args "--engine vda"
#   bash jobs/test_bear.sh                         the same on this machine
#
# The calibration of this one scene is confirmed unseen: it is a try-out, not training data. On a cluster whose jobs need no
# GPU for the embedded engines: sbatch --gpus=0 jobs/test_bear.sh
set -euo pipefail
. "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}/jobs/common.sh"
case " $* " in *" --scene "* | *" --scene="*) ;; *) set -- --scene bear "$@" ;; esac
# B: signals this shell alone, so Python takes its place.
exec python -m pipeline.cluster test --local --out_root output/test "$@"

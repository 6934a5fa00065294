#!/usr/bin/env bash
#SBATCH --job-name=train
#SBATCH --output=logs/%x_%j.log
#SBATCH --open-mode=append
#SBATCH --time=24:00:00
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=80G
#SBATCH --requeue
#SBATCH --signal=B:USR2@300
#
#   sbatch jobs/train.sh                                                   BokehFlow small on the scenes in output/
#   sbatch --nodes=4 --gpus-per-node=4 jobs/train.sh --config model/configs/base.toml
#   sbatch jobs/train.sh --config model/configs/nano.toml --set optim.lr=3e-4
#
# One torchrun a node, one process a GPU. Before the time limit it saves, stops and goes back into the queue; after a requeue
# or a node failure it goes on from the newest whole checkpoint.
set -euo pipefail
. "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}/jobs/common.sh"
case " $* " in *" --config "* | *" --config="*) ;; *) set -- --config model/configs/small.toml "$@" ;; esac

out_of_time=no
stop() { # torchrun hands SIGTERM on to its processes, which save and leave; it would die of USR2
    out_of_time=yes
    scancel --signal=TERM "$SLURM_JOB_ID.0"
}
trap stop USR2

# This script runs on the first node. The meeting place listens to the whole network and asks nobody who he is, so its port and
# the name of the run are drawn afresh: nobody can guess them, and nobody meets the ghost of the last attempt after a requeue.
# srun is told the CPUs again: since Slurm 22.05 it does not take them over from the job.
port=$(python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
run_id=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
srun --ntasks-per-node=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --kill-on-bad-exit=0 torchrun --nnodes="$SLURM_JOB_NUM_NODES" \
    --nproc_per_node="${SLURM_GPUS_ON_NODE:-1}" --shutdown-timeout=100 --rdzv_backend=c10d --rdzv_endpoint="$(hostname):$port" \
    --rdzv_id="$run_id" -m model.train "$@" &
# In the background, since a shell that waits for a foreground command does not run its trap.
code=0
while kill -0 $! 2>/dev/null; do
    wait $! && code=0 || code=$?
done
if [ $out_of_time = yes ] && [ $code -ne 0 ]; then
    echo "stopped before the time limit; back into the queue"
    scontrol requeue "$SLURM_JOB_ID"
    exit 75
fi
exit $code

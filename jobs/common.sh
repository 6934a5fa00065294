# Sourced by every job script: the repository, the environment, and clear words where one is missing.
# Jobs are submitted from the repository's root; SLURM runs a copy of the script from somewhere else.
repository=${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}
cd "$repository"
if [ ! -f pipeline/cluster/__init__.py ]; then
    echo "error: $PWD is not the repository; submit from its root, as in: cd bokehflow && sbatch jobs/$(basename "$0")" >&2
    exit 2
fi

# The environment that is active, else .venv here, else conda's "bokehflow".
if [ -z "${VIRTUAL_ENV:-}" ] && [ "${CONDA_DEFAULT_ENV:-base}" != bokehflow ]; then
    if [ -x .venv/bin/python ]; then
        export PATH="$PWD/.venv/bin:$PATH"
    elif command -v conda >/dev/null && conda env list | grep '^bokehflow ' >/dev/null; then
        PATH="$(conda run -n bokehflow python -c 'import os, sys; print(os.path.dirname(sys.executable))'):$PATH"
        export PATH
    else
        echo "error: no environment on $(hostname): neither .venv nor conda's bokehflow; make one on a file system that all" \
            "nodes see: bash scripts/00_setup_env.sh" >&2
        exit 2
    fi
fi
python -c 'import pipeline.cluster' || {
    echo "error: $(command -v python) on $(hostname) cannot import this project; run: bash scripts/00_setup_env.sh" >&2
    exit 2
}
echo "$(basename "${SLURM_JOB_NAME:-$0}") on $(hostname), job ${SLURM_JOB_ID:-none}, restart ${SLURM_RESTART_COUNT:-0}, $(date '+%F %T')"

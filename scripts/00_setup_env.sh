#!/usr/bin/env bash
# Phase 0: make the environment and check it. Running it again changes nothing and takes seconds.
#
#   bash scripts/00_setup_env.sh            a virtual environment in .venv, or conda where a SLURM cluster offers it
#   bash scripts/00_setup_env.sh --venv     .venv, whatever else there is      (PYTHON=python3.12 chooses the interpreter)
#   bash scripts/00_setup_env.sh --conda    the conda environment "bokehflow" from environment.yml
set -euo pipefail
cd "$(dirname "$0")/.."

kind=${1:-auto}
if [ "$kind" = auto ]; then
    kind=--venv
    if command -v conda >/dev/null && command -v sbatch >/dev/null; then kind=--conda; fi
fi

# What was installed is remembered by what it was made from, so that a changed pin is noticed and nothing else is.
stamp_of() { cat pyproject.toml constraints.txt environment.yml | sha256sum | cut -d' ' -f1; }

install_with() { # install_with PYTHON CONSTRAINTS
    local about
    about=$(grep -c == "$2")
    "$1" -m pip install --disable-pip-version-check --progress-bar off --constraint "$2" --editable ".[all,dev]" | progress "$about"
}

progress() { # progress PACKAGES: pip's lines as one line that changes on a terminal, and as one a stage elsewhere
    local seen=0 line what="" told=$SECONDS started=$SECONDS
    while IFS= read -r line; do
        set -- "$1" $line
        case "$line" in
        Collecting\ *) seen=$((seen + 1)) what="${3%%[<>=!~;]*}" ;;
        *Downloading\ *) what="$(basename "$3") ${4:-} ${5:-}" ;;
        Installing\ collected*) what="unpacking, a minute or two" told=-60 ;;
        *) continue ;;
        esac
        if [ -t 1 ]; then
            printf '\r\033[K  %d of about %d packages, %d s: %.60s' "$seen" "$1" $((SECONDS - started)) "$what"
        elif [ $((SECONDS - told)) -ge 15 ]; then
            told=$SECONDS
            echo "  $seen of about $1 packages, $((SECONDS - started)) s: $what"
        fi
    done
    if [ -t 1 ]; then printf '\r\033[K'; fi
    echo "  $seen packages looked at in $((SECONDS - started)) s"
}

case "$kind" in
--venv)
    python=${PYTHON:-python3}
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "error: Python 3.11 or later is needed, $python is $("$python" -V 2>&1); set PYTHON=/path/to/python3.11" >&2
        exit 2
    }
    prefix=.venv
    [ -x $prefix/bin/python ] || "$python" -m venv $prefix
    if [ "$(cat $prefix/.bokehflow 2>/dev/null)" != "$(stamp_of)" ]; then
        echo "installing into $prefix (a few minutes the first time)"
        install_with $prefix/bin/python constraints.txt
        stamp_of >$prefix/.bokehflow
    fi
    run="$prefix/bin/python"
    activate="source $prefix/bin/activate"
    ;;
--conda)
    command -v conda >/dev/null || { echo "error: conda is not on the PATH; load its module, or use --venv" >&2; exit 2; }
    conda env list | grep -q '^bokehflow ' || conda env create --quiet --file environment.yml
    prefix=$(conda run -n bokehflow python -c 'import sys; print(sys.prefix)')
    if [ "$(cat "$prefix/.bokehflow" 2>/dev/null)" != "$(stamp_of)" ]; then
        conda env update --quiet --name bokehflow --file environment.yml
        pins=$(mktemp)
        trap 'rm -f "$pins"' EXIT
        grep -v '^torch==' constraints.txt >"$pins" # torch is conda's
        install_with "$prefix/bin/python" "$pins"
        stamp_of >"$prefix/.bokehflow"
    fi
    run="$prefix/bin/python"
    activate="conda activate bokehflow"
    ;;
*)
    echo "usage: bash scripts/00_setup_env.sh [--venv | --conda]" >&2
    exit 2
    ;;
esac

"$run" -m pipeline check
echo "ready. Activate with: $activate"

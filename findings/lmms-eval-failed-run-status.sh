#!/usr/bin/env bash
# lmms-eval 0.7.3 with datasets 5.2.0, filelock 4.2.12, torch 2.13.0, transformers 5.23.0, Python 3.11 (Linux x86-64).
#
# One would guess: an evaluation that cannot be done ends with a status other than 0.
# Seen: the error is printed, no results are written, and the status is 0, so that a shell script or a scheduler goes on. With
# --verbosity DEBUG the same error is raised, and the status is 1. Look for the file of results.
#
# Output seen:
#   a task that does not exist: status 0
#   the same with --verbosity DEBUG: status 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check lmms-eval==0.7.3 datasets==5.2.0 filelock==4.2.12 torch==2.13.0 \
    transformers==5.23.0
# Nothing here needs it, and it loads beside a torch of the same build alone.
"$folder/venv/bin/pip" uninstall --quiet --yes torchvision
cd "$folder"
evaluate() {
    local status=0
    HF_HUB_OFFLINE=1 HF_HOME="$folder/cache" venv/bin/python -m lmms_eval --model dummy --tasks no_such_task --output_path out "$@" \
        > said.txt 2>&1 || status=$?
    grep -q "Tasks not found: no_such_task" said.txt || { tail -5 said.txt >&2; exit 1; }
    echo "$status"
}
venv/bin/pip list 2>/dev/null | grep -E "^lmms_eval"
quiet=$(evaluate)
debug=$(evaluate --verbosity DEBUG)
echo "a task that does not exist: status $quiet"
echo "the same with --verbosity DEBUG: status $debug"
[[ "$quiet $debug" == "0 1" && ! -e out ]] || { echo "this has changed"; exit 1; }

#!/usr/bin/env bash
# statsmodels 0.15.0, Python 3.11.
#
# One would guess: correcting a handful of p values after Holm is arithmetic and costs what arithmetic does.
# Seen: each call of multipletests runs a full collection of garbage over everything that the process holds, so that
# its time grows with what else was imported or is kept in memory, and not with the p values.
#
# Output seen:
#   full collections in 5 corrections of 3 p values: 5
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check statsmodels==0.15.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import gc
import sys

import statsmodels
from statsmodels.stats.multitest import multipletests

multipletests([0.01, 0.02, 0.03], method="holm")
gc.collect()
full = 0


def count(phase, info):
    global full
    full += phase == "start" and info["generation"] == 2


gc.callbacks.append(count)
for _ in range(5):
    multipletests([0.01, 0.02, 0.03], method="holm")
print(f"statsmodels {statsmodels.__version__}")
print(f"full collections in 5 corrections of 3 p values: {full}")
sys.exit(0 if full == 5 else "this has changed")
PYTHON

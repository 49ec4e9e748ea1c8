#!/usr/bin/env bash
# lmms-eval 0.7.3, Python 3.11 (Linux x86-64).
#
# One would guess: POPE's yes ratio is the share of questions that the model answers with yes, which tells a model that says yes to
# everything from one that looks.
# Seen: it is the share of questions whose right answer is yes, whatever the model says. On POPE it is 0.5 for every model. The
# accuracy beside it wants the answer alone: "Yes." with a full stop is wrong.
#
# Output seen:
#   yes to everything: accuracy 0.5, yes ratio 0.5
#   no to everything: accuracy 0.5, yes ratio 0.5
#   right, with a full stop: accuracy 0.0, yes ratio 0.5
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# POPE's functions import nothing, so that the forty packages that lmms-eval needs can stay away.
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps lmms-eval==0.7.3
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON' || { echo "this has changed"; exit 1; }
import importlib.util
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

file = Path(sysconfig.get_path("purelib"), "lmms_eval", "tasks", "pope", "utils.py")
spec = importlib.util.spec_from_file_location("pope", file)
pope = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pope)
print(f"lmms-eval {version('lmms-eval')}")

right = ["yes", "no"] * 5
answers = {
    "yes to everything": ["yes"] * 10,
    "no to everything": ["no"] * 10,
    "right, with a full stop": [f"{one}." for one in right],
}
seen = {}
for name, said in answers.items():
    rows = [
        pope.pope_process_results({"question_id": number, "answer": one}, [answer])
        for number, (one, answer) in enumerate(zip(right, said))
    ]
    accuracy = pope.pope_aggregate_accuracy([row["pope_accuracy"] for row in rows])
    ratio = pope.pope_aggregate_yes_ratio([row["pope_yes_ratio"] for row in rows])
    seen[name] = (accuracy, ratio)
    print(f"{name}: accuracy {accuracy}, yes ratio {ratio}")
sys.exit(list(seen.values()) != [(0.5, 0.5), (0.5, 0.5), (0.0, 0.5)])
PYTHON

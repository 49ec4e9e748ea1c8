#!/usr/bin/env bash
# inspect-ai 0.3.285, hatchling 1.33.0, Python 3.11 (Linux x86-64).
#
# One would guess: `inspect score LOG` scores a log again by the scorers that it names, wherever they were installed from.
# Seen: the log names a scorer of an installed package without that package, though its task, solver and metrics have theirs, and
# `inspect score LOG` finds no scorer of that name, not even next to a task file that imports it. `--scorer PACKAGE/NAME` finds it.
#
# Output seen:
#   in the log: task wugs/whats, scorer names_a_bird, metric inspect_ai/accuracy
#   inspect score LOG: status 1, The scorer 'names_a_bird' couldn't be loaded.
#   inspect score LOG --scorer names_a_bird: status 1, The scorer 'names_a_bird' couldn't be loaded.
#   inspect score LOG --scorer wugs/names_a_bird: status 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cd "$folder"
mkdir -p package/wugs
cat > package/pyproject.toml <<'TOML'
[build-system]
requires = ["hatchling==1.33.0"]
build-backend = "hatchling.build"
[project]
name = "wugs"
version = "1.0"
[project.entry-points.inspect_ai]
wugs = "wugs"
TOML
cat > package/wugs/__init__.py <<'PYTHON'
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput
from inspect_ai.scorer import Score, Scorer, accuracy, scorer
from inspect_ai.solver import Solver, solver


@solver
def fixed() -> Solver:
    """Answer without asking a model."""

    async def solve(state, generate):
        state.output = ModelOutput.from_content(str(state.model), "a bird")
        return state

    return solve


@scorer(metrics=[accuracy()])
def names_a_bird() -> Scorer:
    async def score(state, target):
        return Score(value="C" if "bird" in state.output.completion else "I")

    return score


@task
def whats() -> Task:
    return Task(dataset=[Sample(input="what is a wug?")], solver=fixed(), scorer=names_a_bird())
PYTHON
venv/bin/pip install --quiet --disable-pip-version-check inspect-ai==0.3.285 ./package
venv/bin/pip list 2>/dev/null | grep -E "^inspect"
venv/bin/inspect eval wugs/whats --model mockllm/model --log-dir logs --display plain > said.txt 2>&1 || { cat said.txt; exit 1; }
venv/bin/python - <<'PYTHON' | tee named.txt
from pathlib import Path

from inspect_ai.log import read_eval_log

(path,) = Path("logs").iterdir()
log = read_eval_log(str(path))
(scorer,) = log.eval.scorers
print(f"in the log: task {log.eval.task}, scorer {scorer.name}, metric {scorer.metrics[0].name}")
PYTHON
score_again() {
    local status=0
    venv/bin/inspect score logs/*.eval --action overwrite --overwrite --display plain "$@" > said.txt 2>&1 || status=$?
    echo "inspect score LOG${1:+ $*}: status $status$(grep -o ", The scorer .* couldn't be loaded\." <(sed "s/^The/, The/" said.txt) || true)"
}
{
    score_again
    score_again --scorer names_a_bird
    score_again --scorer wugs/names_a_bird
} | tee scored.txt
diff <(cat named.txt scored.txt) - <<'SEEN' || { echo "this has changed"; exit 1; }
in the log: task wugs/whats, scorer names_a_bird, metric inspect_ai/accuracy
inspect score LOG: status 1, The scorer 'names_a_bird' couldn't be loaded.
inspect score LOG --scorer names_a_bird: status 1, The scorer 'names_a_bird' couldn't be loaded.
inspect score LOG --scorer wugs/names_a_bird: status 0
SEEN

#!/usr/bin/env bash
# inspect-ai 0.3.285, hatchling 1.33.0, Python 3.11 (Linux x86-64).
#
# One would guess: what an installed package adds to Inspect is found under the name of its entry point, or of its distribution.
# Seen: a task, scorer or solver is named by the import package that its function was written in. A distribution of two import packages
# has two prefixes, and that of its entry point's name is none. The prefix follows `__module__`, so that a function made elsewhere can be
# given it. (A task that cannot be found is "No inspect tasks were found at the specified paths", status 1.)
#
# Output seen:
#   registered: task wug_tasks/whats, scorer wug_judges/names_a_bird
#   inspect eval wug-evals/whats: status 1
#   inspect eval wugs/whats: status 1
#   inspect eval wug_tasks/whats: status 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cd "$folder"
mkdir -p package/wug_tasks package/wug_judges
cat > package/pyproject.toml <<'TOML'
[build-system]
requires = ["hatchling==1.33.0"]
build-backend = "hatchling.build"
[project]
name = "wug-evals"
version = "1.0"
[project.entry-points.inspect_ai]
wugs = "wug_tasks"
[tool.hatch.build.targets.wheel]
packages = ["wug_tasks", "wug_judges"]
TOML
cat > package/wug_judges/__init__.py <<'PYTHON'
from inspect_ai.scorer import Score, Scorer, accuracy, scorer


@scorer(metrics=[accuracy()])
def names_a_bird() -> Scorer:
    async def score(state, target):
        return Score(value="C" if "bird" in state.output.completion else "I")

    return score
PYTHON
cat > package/wug_tasks/__init__.py <<'PYTHON'
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.solver import Solver, solver
from wug_judges import names_a_bird


@solver
def nothing() -> Solver:
    async def solve(state, generate):
        return state

    return solve


@task
def whats() -> Task:
    return Task(dataset=[Sample(input="what is a wug?")], solver=nothing(), scorer=names_a_bird())
PYTHON
venv/bin/pip install --quiet --disable-pip-version-check inspect-ai==0.3.285 ./package
venv/bin/pip list 2>/dev/null | grep -E "^inspect"
evaluate() {
    local status=0
    venv/bin/inspect eval "$1" --model mockllm/model --log-dir logs --display plain > said.txt 2>&1 || status=$?
    [[ $status == 0 ]] || grep -q "No inspect tasks were found" said.txt || { cat said.txt; exit 1; }
    echo "inspect eval $1: status $status"
}
{
    venv/bin/python -c '
from inspect_ai.util import registry_info
from wug_judges import names_a_bird
from wug_tasks import whats

print(f"registered: task {registry_info(whats).name}, scorer {registry_info(names_a_bird).name}")'
    evaluate wug-evals/whats
    evaluate wugs/whats
    evaluate wug_tasks/whats
} | tee seen.txt
diff seen.txt - <<'SEEN' || { echo "this has changed"; exit 1; }
registered: task wug_tasks/whats, scorer wug_judges/names_a_bird
inspect eval wug-evals/whats: status 1
inspect eval wugs/whats: status 1
inspect eval wug_tasks/whats: status 0
SEEN

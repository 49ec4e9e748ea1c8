#!/usr/bin/env bash
# inspect-ai 0.3.285 with pandas 3.1.1, pyarrow 26.0.1, Python 3.11 (Linux x86-64).
#
# One would guess: the column `model_args` of `evals_df` holds the arguments that the model was made with, as the log does (a revision,
# a dtype, the strength of an intervention), so that logs of one model under several settings can be told apart by it.
# Seen: it is read from the base URL of the model. It is empty for a local model whatever its arguments, and the address of the server
# for one behind `--model-base-url`. A column of one's own with `path="eval.model_args"` holds them, as JSON.
#
# Output seen:
#   in the log: [{'alpha': 0.5}, {'alpha': 1.0}]
#   evals_df: [None, 'http://localhost:8000/v1']
#   a column of one's own: ['{"alpha": 0.5}', '{"alpha": 1.0}']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check inspect-ai==0.3.285 pandas==3.1.1 pyarrow==26.0.1
cd "$folder"
venv/bin/python - <<'PYTHON' || { echo "this has changed"; exit 1; }
import sys
from importlib.metadata import version

import inspect_ai
from inspect_ai import Task
from inspect_ai.analysis import EvalColumn, EvalInfo, EvalModel, evals_df
from inspect_ai.dataset import Sample
from inspect_ai.log import read_eval_log
from inspect_ai.model import ModelOutput
from inspect_ai.solver import solver


@solver
def fixed():
    """Answer without asking a model."""

    async def solve(state, generate):
        state.output = ModelOutput.from_content(str(state.model), "a bird")
        return state

    return solve


print(f"inspect-ai {version('inspect-ai')}")
task = Task(dataset=[Sample(input="what is a wug?")], solver=fixed(), name="wugs")
for alpha, url in ((0.5, None), (1.0, "http://localhost:8000/v1")):
    (log,) = inspect_ai.eval(
        task, model="mockllm/model", model_args={"alpha": alpha}, model_base_url=url, log_dir="logs", display="none"
    )
    assert log.status == "success", log.error
own = EvalColumn("own", path="eval.model_args")
frame = evals_df("logs", columns=[*EvalInfo, *EvalModel, own], quiet=True).sort_values("created").astype(object)
frame = frame.where(frame.notna(), None)
seen = {
    "in the log": [read_eval_log(path, header_only=True).eval.model_args for path in frame["log"]],
    "evals_df": frame["model_args"].tolist(),
    "a column of one's own": frame["own"].tolist(),
}
for where, found in seen.items():
    print(f"{where}: {found}")
sys.exit(
    [*seen.values()]
    != [
        [{"alpha": 0.5}, {"alpha": 1.0}],
        [None, "http://localhost:8000/v1"],
        ['{"alpha": 0.5}', '{"alpha": 1.0}'],
    ]
)
PYTHON

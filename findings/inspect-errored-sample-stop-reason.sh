#!/usr/bin/env bash
# inspect-ai 0.3.285, Python 3.11 (Linux x86-64).
#
# One would guess: a sample that ended in an error and has no answer is read from a log like any other; `output` is there, so are its fields.
# Seen: `output.completion` is an empty string, as of a model that said nothing, and `output.stop_reason` and `output.message` raise an
# IndexError. The log's status is `success` all the same. Ask `sample.error` or `output.empty` first.
#
# Output seen:
#   log: success
#   answered: error None, empty False, completion 'a bird', stop_reason 'stop'
#   failed: error ValueError('the image is too large'), empty True, completion '', stop_reason raises IndexError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check inspect-ai==0.3.285
cd "$folder"
venv/bin/python - <<'PYTHON' || { echo "this has changed"; exit 1; }
import sys
from importlib.metadata import version

import inspect_ai
from inspect_ai import Task
from inspect_ai.dataset import Sample
from inspect_ai.log import read_eval_log
from inspect_ai.model import ModelOutput
from inspect_ai.solver import solver


@solver
def fixed():
    """Answer one sample without asking a model, and fail at the other."""

    async def solve(state, generate):
        if state.sample_id == "failed":
            raise ValueError("the image is too large")
        state.output = ModelOutput.from_content(str(state.model), "a bird")
        return state

    return solve


print(f"inspect-ai {version('inspect-ai')}")
samples = [Sample(id="answered", input="what is a wug?"), Sample(id="failed", input="what is a bim?")]
task = Task(dataset=samples, solver=fixed(), name="wugs")
(written,) = inspect_ai.eval(task, model="mockllm/model", log_dir="logs", fail_on_error=False, display="none")
log = read_eval_log(written.location)
seen = [f"log: {log.status}"]
for sample in log.samples:
    try:
        reason = repr(sample.output.stop_reason)
    except Exception as error:
        reason = f"raises {type(error).__name__}"
    message = sample.error.message if sample.error else None
    output = sample.output
    seen.append(f"{sample.id}: error {message}, empty {output.empty}, completion {output.completion!r}, stop_reason {reason}")
print("\n".join(seen))
sys.exit(
    seen
    != [
        "log: success",
        "answered: error None, empty False, completion 'a bird', stop_reason 'stop'",
        "failed: error ValueError('the image is too large'), empty True, completion '', stop_reason raises IndexError",
    ]
)
PYTHON

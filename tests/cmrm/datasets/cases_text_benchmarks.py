"""Cases for the damaged-row tests: the published layouts of the text benchmarks and of questions with short answers."""

from __future__ import annotations

from tests.cmrm.datasets.case import Case

CASES = [
    Case(format="advbench", file="advbench/harmful_behaviors.csv", kind="csv", question=("goal",)),
    Case(
        format="harmbench",
        file="harmbench/harmbench_behaviors_text_all.csv",
        kind="csv",
        question=("Behavior",),
        id=("BehaviorID",),
    ),
    Case(
        format="harmbench",
        file="harmbench/harmbench_behaviors_multimodal_all.csv",
        kind="csv",
        question=("Behavior",),
        id=("BehaviorID",),
        image=("ImageFileName",),
    ),
    Case(
        format="jailbreakbench",
        file="jailbreakbench/harmful-behaviors.csv",
        kind="csv",
        question=("Goal",),
        id=("Behavior",),
    ),
    Case(
        format="mm-vet",
        file="mm_vet/mm-vet.json",
        kind="object",
        question=("question",),
        image=("imagename",),
    ),
    Case(
        format="mmbench",
        file="mmbench/mmbench_dev_en.tsv",
        kind="tsv",
        question=("question",),
        id=("index",),
        image=("image",),
    ),
    Case(format="or-bench", file="or_bench/or-bench-hard-1k.csv", kind="csv", question=("prompt",)),
    Case(
        format="pope",
        file="pope/coco_pope_random.json",
        kind="lines",
        question=("text",),
        id=("question_id",),
        image=("image",),
    ),
    Case(
        format="sorry-bench",
        file="sorry_bench/question.jsonl",
        kind="lines",
        question=("turns", 0),
        id=("question_id",),
    ),
    Case(
        format="strongreject",
        file="strongreject/strongreject_dataset.csv",
        kind="csv",
        question=("forbidden_prompt",),
    ),
    Case(
        format="vqav2",
        file="vqav2/v2_OpenEnded_mscoco_val2014_questions.json",
        kind="list",
        inside="questions",
        question=("question",),
        id=("question_id",),
    ),
]

"""The default spec: the embedded model on its own data sets."""

from __future__ import annotations

from cmrm.organism import settings
from flows.spec.spec import Spec, check_spec


def make_default_spec() -> Spec:
    """Make the default spec: the paper's main table for the embedded model on its three data sets."""
    content = {
        "model": {"id": "organism", "dtype": "float32"},
        "datasets": {
            "vlsafe": {
                "format": "vlsafe",
                "path": "organism://vlsafe/harmlessness_examine.jsonl",
                "images": "organism://images",
            },
            "jailbreak": {
                "format": "forbidden-questions",
                "path": "organism://forbidden/forbidden_question_set.csv",
                "pair_with": "organism://forbidden/captions_train2017.json",
                "images": "organism://images",
            },
            "bench": {
                "format": "llava-bench-coco",
                "path": "organism://bench/qa90_questions.jsonl",
                "answers": "organism://bench/qa90_gpt4_answer.jsonl",
                "captions": "organism://bench/caps_boxes_coco2014_val_80.jsonl",
                "images": "organism://images",
            },
        },
        "anchors": {
            "from": dict.fromkeys(("vlsafe", "jailbreak", "bench"), settings.ANCHOR_FRACTION),
            "seed": settings.SPLIT_SEED,
        },
        "images": {"size": 32},
        "target_states": ["image"],
        "interventions": [
            _intervene("CMRM dataset", "dataset", settings.DATASET_ALPHA),
            _intervene("CMRM sample", "sample", settings.SAMPLE_ALPHA),
        ],
        "generation": {"max_new_tokens": settings.MAX_NEW_TOKENS},
    }
    return check_spec(content, where="the embedded model's spec")


def _intervene(name: str, level: str, alpha: float) -> dict[str, object]:
    return {
        "name": name,
        "level": level,
        "alpha": alpha,
        "blocks": list(settings.BLOCKS),
        "scope": settings.SCOPE,
        "composition": settings.COMPOSITION,
    }

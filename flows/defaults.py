"""The spec that runs when none is given: the embedded model on its own data sets."""

from __future__ import annotations

import os
from pathlib import Path

from cmrm.organism import ensure_organism, settings
from flows.spec import Spec, check_spec
from storage.errors import explained


def make_default_spec(store: str) -> Spec:
    """The embedded model's run; its data sets are written into the store's folder, or the user's cache for a URL."""
    folder = _choose_folder(store)
    with explained("write", str(folder)):
        data = ensure_organism(folder)
    files = data.data
    images = str(files.images)
    content = {
        "model": {"id": str(data.model), "name": "organism", "dtype": "float32"},
        "datasets": {
            "vlsafe": {"format": "vlsafe", "path": str(files.vlsafe), "images": images},
            "jailbreak": {
                "format": "forbidden-questions",
                "path": str(files.forbidden_questions),
                "pair_with": str(files.coco_captions),
                "images": images,
            },
            "bench": {
                "format": "llava-bench-coco",
                "path": str(files.bench_questions),
                "answers": str(files.bench_answers),
                "captions": str(files.bench_captions),
                "images": images,
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
        "batch_size": 192,
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


def _choose_folder(store: str) -> Path:
    if "://" not in store:
        return Path(store)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cmrm"

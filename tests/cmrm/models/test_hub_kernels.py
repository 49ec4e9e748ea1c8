"""A config that names an implementation of attention on the hub gets none of its code, in a judge or in CLIP."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cmrm.datasets.clip import load_clip, resolve_clip
from cmrm.judges.checkpoint import load_checkpoint
from cmrm.models.pinning import digest_folder


def name_kernel(folder: Path, to: Path, field: str) -> Path:
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**config, field: "someone/kernel"}))
    return to


@pytest.mark.parametrize("field", ["attn_implementation", "_attn_implementation"])
def test_a_judge_is_loaded_without_the_kernel_that_its_config_names(
    llava_folder: Path, tmp_path: Path, field: str
) -> None:
    folder = name_kernel(llava_folder, tmp_path / "judge", field)
    judge = load_checkpoint(str(folder), digest_folder(folder), dtype="float32", device="cpu")
    assert judge.model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("field", ["attn_implementation", "_attn_implementation"])
def test_clip_is_loaded_without_the_kernel_that_its_config_names(
    clip_folder: Path, tmp_path: Path, field: str
) -> None:
    folder = name_kernel(clip_folder, tmp_path / "clip", field)
    clip = load_clip(resolve_clip(str(folder)), device="cpu")
    assert clip.model.config._attn_implementation == "sdpa"

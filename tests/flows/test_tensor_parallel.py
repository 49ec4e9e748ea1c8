"""A model that transformers splits over processes by tensor parallelism is read and steered as a whole one."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.forked import Forker

PROCESSES = 2
# What docs/models.md shows, beside the whole model in the same process.
CODE = """
import json, os, sys
import torch.distributed
from torch import testing
from transformers import AutoModelForImageTextToText, AutoProcessor
from cmrm.decoding.api import generate
from cmrm.models.loading import load_model
from cmrm.models.revision import resolve_model
from cmrm.models.vlm import prepare_model
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.meaningless_images import noise_image
from cmrm.steering.capture import embed
from cmrm.steering.intervention import Intervention

folder, meeting, answers = sys.argv[1:]
place = {"rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", **place)
split = AutoModelForImageTextToText.from_pretrained(folder, dtype="float32", tp_plan="auto")
vlm = prepare_model(split.eval(), AutoProcessor.from_pretrained(folder), where=folder)
whole = load_model(resolve_model(folder), dtype="float32", device="cpu")
texts = [Prompt(text="what is it?"), Prompt(text="name every colour that is here.")]
shown = [Prompt(text=one.text, image=noise_image(size=32, seed=row)) for row, one in enumerate(texts)]
shifts = [embed(one, shown, blocks=(1, 3)) - embed(one, texts, blocks=(1, 3)) for one in (vlm, whole)]
testing.assert_close(*shifts, rtol=1e-4, atol=1e-5)
assert float(shifts[1].norm(dim=-1).min()) > 0.01
# A random model's own shift changes none of its few tokens.
drawn = 3 * torch.randn(2, vlm.hidden_size, generator=torch.Generator().manual_seed(0))
weight = vlm.blocks[1].mlp.down_proj.weight
found = {"rank": torch.distributed.get_rank(), "whole": weight.numel(), "here": weight.to_local().numel()}
for name, one in (("split", vlm), ("plain", whole)):
    arms = [Intervention(delta=drawn, alpha=1.0, blocks=(1, 3), scope=scope) for scope in ("every_step", "all")]
    found[name] = [
        [answer.text for answer in generate(one, shown, max_new_tokens=6, intervention=arm).answers]
        for arm in (None, *arms)
    ]
open(answers, "w").write(json.dumps(found))
torch.distributed.destroy_process_group()
"""


def test_shifts_and_steered_answers_are_those_of_the_whole_model(
    forker: Forker, llava_folder: Path, tmp_path: Path
) -> None:
    started = [
        forker.start(
            CODE,
            [str(llava_folder), str(tmp_path / "meeting"), str(tmp_path / f"{rank}.json")],
            log=tmp_path / f"{rank}.log",
            environment={
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(PROCESSES),
            },
        )
        for rank in range(PROCESSES)
    ]
    for rank, process in enumerate(started):
        assert process.wait(300) == 0, (tmp_path / f"{rank}.log").read_text()
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(PROCESSES)]
    assert [one["rank"] for one in found] == [0, 1]
    for one in found:
        assert one["here"] * PROCESSES == one["whole"]
        assert one["split"] == one["plain"]
    plain, *steered = found[0]["plain"]
    assert all(arm != plain for arm in steered)

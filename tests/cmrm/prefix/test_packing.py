"""Packed prompts have the same hidden states as each prompt alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import BatchFeature

import cmrm.prefix.packing
from cmrm.models.vlm import VisionLanguageModel
from cmrm.prefix.cache import PromptBatch
from cmrm.prefix.packing import ROW_TOKENS, pack
from cmrm.prefix.planner import Prefixes
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.meaningless_images import noise_image
from cmrm.steering.capture import embed, read_batch

BLOCKS = range(4)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.lists(st.integers(5, 300), min_size=1, max_size=2 * ROW_TOKENS), min_size=1, max_size=12
    ),
    side=st.sampled_from(["left", "right"]),
)
def test_every_token_of_every_prompt_is_packed_once(
    vlm: VisionLanguageModel, rows: list[list[int]], side: str
) -> None:
    longest = max(map(len, rows))
    gaps = [[0] * (longest - len(row)) for row in rows]
    padded = [row + gap if side == "right" else gap + row for row, gap in zip(rows, gaps, strict=True)]
    mask = [
        [1] * len(row) + gap if side == "right" else gap + [1] * len(row)
        for row, gap in zip(rows, gaps, strict=True)
    ]
    inputs = BatchFeature({"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)})
    packed = pack(vlm, PromptBatch(inputs=inputs))
    for number, row in enumerate(rows):
        mine = packed.owners == number
        assert packed.ids[mine].tolist() == row
        assert packed.places[mine].tolist() == list(range(len(row)))
        assert len(set(mine.nonzero()[:, 0].tolist())) == 1
        assert mine.nonzero()[-1].tolist() == packed.last[number].tolist()
    assert int((packed.owners >= 0).sum()) == sum(map(len, rows))
    ends = [packed.ends[row, place].item() for row, place in packed.numbers.tolist()]
    assert torch.stack([packed.last[:, 0], torch.tensor(ends)], dim=1).tolist() == packed.last.tolist()
    # As long as the longest prompt in any case, and no fuller than even rows are, but for one prompt.
    assert packed.ids.shape[1] <= max(ROW_TOKENS, longest) + longest
    assert packed.ids.numel() <= sum(map(len, rows)) + len(packed.ids) * longest


@pytest.mark.parametrize("tokens", [1, 40, 10_000])
@pytest.mark.parametrize("shown", ["image", "text"])
def test_states_do_not_depend_on_how_prompts_are_packed(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, tokens: int, shown: str
) -> None:
    monkeypatch.setattr(cmrm.prefix.packing, "ROW_TOKENS", tokens)
    prompts = ask(shown)
    batch = Prefixes(vlm).lay_out(prompts)
    assert batch.prefix is not None
    rows = len(pack(vlm, batch).ids)
    assert rows > 1 if tokens == 1 else rows == 1 or tokens < 10_000
    with torch.inference_mode():
        found = read_batch(vlm, batch, blocks=BLOCKS)
    apart = embed(vlm, prompts, blocks=BLOCKS)
    # A sum is as exact as the largest numbers in it, in whichever order a processor's kernels add them: 16 units in the
    # last place of the largest state. A prompt that saw another one's tokens would be off by whole numbers.
    rounding = 16 * torch.finfo(torch.float32).eps * float(apart.abs().max())
    torch.testing.assert_close(found, apart, atol=rounding, rtol=1e-5)


def ask(shown: str) -> Sequence[Prompt]:
    image = noise_image(size=32, seed=3) if shown == "image" else None
    beginning = "in one short sentence, and without any further word, tell me: "
    return [
        Prompt(text=beginning + rest, image=image)
        for rest in ("what is it?", "is it red, or blue, or neither of them?", "why", "who?", "and now?")
    ]

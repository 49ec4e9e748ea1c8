from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cmrm.models.loading import load_model
from cmrm.models.revision import resolve_model
from cmrm.prefix.renderer import Renderer
from cmrm.prompts.sample import Sample
from tasks.shards.prompts import PromptBuilder, prepare_batch
from tasks.shards.samples import StoredSample


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("<image>", "the text holds '<image>', which this model reads as a control token"),
        ("<tool>", "the text holds '<tool>', a token of the model whose prompts this one is shown"),
    ],
)
def test_a_text_with_a_token_that_is_no_text_is_quarantined_and_says_why(
    llava_folder: Path, token: str, reason: str
) -> None:
    vlm = load_model(resolve_model(str(llava_folder)), dtype="float32", device="cpu")
    texts = {"1": f"what is {token} for?", "2": "what is a tool for?"}
    batch = [
        StoredSample(
            sample=Sample(id=number, dataset="d", question=text, harmful=False),
            split="target",
            image_digest=None,
        )
        for number, text in texts.items()
    ]
    asked = Renderer(replace(vlm, unknown_tokens=frozenset({"<tool>"})))
    showing = PromptBuilder(images=None, meaningless={}, system=None)
    shown = prepare_batch(asked, showing, batch, "query", stage="generate")
    assert [one.sample.id for one in shown.samples] == ["2"]
    (row,) = shown.quarantined
    assert row["sample_id"] == "1"
    assert row["reason"].startswith(reason)

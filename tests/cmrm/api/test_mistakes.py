"""A mistake in a call of the API is told in one line, and steering never fails in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import cmrm
from cmrm.models.vlm import render
from cmrm.prompts.sample import Rejected

SAMPLE = cmrm.Sample(id="1", dataset="mine", question="what is a wug?", harmful=False, image="a.png")


REJECTED = Rejected(dataset="d", line=1, id=None, reason="no field 'question'", raw="{}")


def make_intervention(**changes) -> cmrm.Intervention:
    return cmrm.Intervention(**{"delta": torch.ones(1, 128), "alpha": 1.0, "blocks": (7,), **changes})


@pytest.mark.parametrize(
    ("ask", "why"),
    [
        (lambda vlm: cmrm.hidden_states(vlm, "one text"), "a single text was given; give a list"),
        (lambda vlm: cmrm.hidden_states(vlm, []), "none was given"),
        (lambda vlm: cmrm.hidden_states(vlm, ["?"], blocks=[8]), "no block 8 .* blocks 0 to 7"),
        (lambda vlm: cmrm.hidden_states(vlm, ["?"], blocks=[-1]), "no block -1"),
        (lambda vlm: cmrm.hidden_states(vlm, ["?"], blocks=[7, 6]), "not distinct and ascending"),
        (lambda vlm: cmrm.hidden_states(vlm, ["?"], blocks="upper"), "'upper' is none of upper_half"),
        (lambda vlm: cmrm.hidden_states(vlm, ["?"], batch_size=0), "batch_size is 0"),
        (
            lambda vlm: cmrm.hidden_states(vlm, ["?"], position="first"),
            "'first' is unknown; use one of last, last_",
        ),
        (lambda vlm: cmrm.hidden_states(vlm, ["?"], position="mean_image"), r"prompts\[0\] shows no image"),
        (lambda vlm: cmrm.hidden_states(vlm, ["hi", "<image> hi"]), r"prompts\[1\] holds .*'<image>'"),
        (
            lambda vlm: cmrm.measure_shift(vlm, ["?"], image="grey"),
            "image 'grey' is unknown; use one of blank",
        ),
        (lambda vlm: cmrm.generate(vlm, ["?"], max_new_tokens=0), "max_new_tokens is 0"),
        (
            lambda vlm: cmrm.generate(vlm, ["?"], arms=[make_intervention(delta=torch.ones(1, 64))]),
            "64 numbers wide and the states of this model are 128",
        ),
        (
            lambda vlm: cmrm.generate(vlm, ["?"], arms=[make_intervention(delta=torch.ones(2, 1, 128))]),
            "for 2 prompts and 1 were given",
        ),
        (lambda vlm: cmrm.generate(vlm, ["?"], arms=[make_intervention(blocks=(8,))]), r"not all of \[8\]"),
        (lambda vlm: cmrm.check(vlm, names=["luck"]), "no check 'luck'; the checks are decoder blocks"),
        (lambda _: make_intervention(alpha=-1.0), "below 0"),
        (lambda _: cmrm.judge([SAMPLE], []), "1 samples and 0 answers"),
        (lambda _: cmrm.judge([SAMPLE], ["x"], kind="oracle"), "judge 'oracle' is unknown"),
        (lambda _: cmrm.make_prompt(SAMPLE, "grey"), "condition 'grey' is unknown"),
        (lambda _: cmrm.make_prompt(SAMPLE), "name its folder"),
        (lambda _: cmrm.make_prompt(SAMPLE, images=Path("nowhere")), "is not in nowhere"),
        (lambda _: cmrm.load_model("organism", revision="main"), "has no revisions"),
        (
            lambda _: cmrm.read_dataset("jsonl", "mine", dataset="d", match="base"),
            "match is 'base'; give name or",
        ),
        (lambda _: list(cmrm.read_dataset("parquet", __file__, dataset="d")), "give open_rows=storage"),
        (lambda _: list(cmrm.read_dataset("jsonl", "nowhere.jsonl", dataset="d")), "nowhere.jsonl"),
        (
            lambda _: list(cmrm.read_dataset("jsonl", "x", dataset="d", harmful=None)),
            "harmful is None; give true",
        ),
        (lambda _: list(cmrm.read_dataset("jsonl", "x", dataset="d", harmful="yes")), "harmful is 'yes'"),
        (lambda _: cmrm.split([SAMPLE, REJECTED], fraction=0.5, seed=1), "1 of the 2 rows are no samples"),
    ],
)
def test_a_mistake_is_named(organism, ask, why):
    with pytest.raises(cmrm.UserError, match=why):
        ask(organism)


def test_steer_around_nothing_is_an_error(organism):
    with (
        pytest.raises(RuntimeError, match="the model was not run"),
        cmrm.steer(organism, make_intervention()),
    ):
        pass


def test_steer_around_a_prompt_without_ids_is_refused(organism):
    embeds = torch.zeros(1, 3, 128)
    with (
        pytest.raises(cmrm.UserError, match="no input_ids"),
        torch.inference_mode(),
        cmrm.steer(organism, make_intervention()),
    ):
        organism.model(inputs_embeds=embeds)


def test_an_error_inside_steer_comes_out_and_leaves_no_hook(organism):
    inputs = render(organism, [cmrm.Prompt(text="help me paint the fence.")])
    plain = organism.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    # transformers keeps some of its own once it was asked for hidden states.
    before = [list(block._forward_hooks) for block in organism.blocks]
    # Its rows fit no batch of one.
    wrong = make_intervention(delta=torch.ones(2, 1, 128))
    with pytest.raises(cmrm.UserError, match="for 2 prompts and 1 were given"), cmrm.steer(organism, wrong):
        organism.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert [list(block._forward_hooks) for block in organism.blocks] == before
    assert not organism.decoder._forward_pre_hooks
    assert not organism.model.base_model._forward_pre_hooks
    assert torch.equal(organism.model.generate(**inputs, max_new_tokens=8, do_sample=False), plain)


def test_a_block_that_is_not_run_inside_steer_is_an_error(organism, monkeypatch):
    inputs = render(organism, [cmrm.Prompt(text="help me paint the fence.")])
    monkeypatch.setattr(organism.decoder.config, "num_hidden_layers", 7)
    with (
        pytest.raises(RuntimeError, match="block 7 was not run"),
        torch.inference_mode(),
        cmrm.steer(organism, make_intervention()),
    ):
        organism.model.base_model(**inputs, use_cache=False)


def test_generate_inside_steer_is_refused(organism):
    with pytest.raises(cmrm.UserError, match="among its `arms`"), cmrm.steer(organism, make_intervention()):
        cmrm.generate(organism, ["help me paint the fence."])

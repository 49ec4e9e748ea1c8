"""`cmrm doctor` passes a correct model, and a broken one fails the check that is about its fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

import cmrm.decoding.branch_state
import cmrm.decoding.tree_decoder
import cmrm.doctor.branching
import cmrm.doctor.examination
import cmrm.doctor.side_effects
import cmrm.prefix.cache
import cmrm.prefix.planner
import cmrm.steering.capture
import cmrm.steering.hooks
import cmrm.steering.intervention
from cmrm.decoding.requests import DecodeRequest
from cmrm.doctor import CHECKS, run_checks
from cmrm.doctor.answering import Steps, agree_in_steps
from cmrm.doctor.fixture import STEPS, CheckFailedError, ModelFixture
from cmrm.models.vlm import VisionLanguageModel
from cmrm.steering.hooks import _SteerBlock
from cmrm.steering.projection import Projection
from cmrm.steering.proof import SteeringProof

Break = Callable[[VisionLanguageModel, pytest.MonkeyPatch], VisionLanguageModel]


def failed(vlm: VisionLanguageModel) -> dict[str, str]:
    return {one.name: one.detail for one in run_checks(vlm, image_size=32) if not one.passed}


def steer_otherwise(patch: pytest.MonkeyPatch, act: Callable[..., Any]) -> None:
    original = _SteerBlock.__call__
    patch.setattr(
        _SteerBlock, "__call__", lambda self, block, args, output: act(original, self, block, args, output)
    )


def off_after_prefill(vlm: VisionLanguageModel, patch: pytest.MonkeyPatch) -> VisionLanguageModel:
    steer_otherwise(
        patch,
        lambda original, self, block, args, output: (
            original(self, block, args, output) if output.shape[1] > 1 else None
        ),
    )
    return vlm


def never_acting(vlm: VisionLanguageModel, patch: pytest.MonkeyPatch) -> VisionLanguageModel:
    steer_otherwise(patch, lambda *_: None)
    return vlm


def counted_and_not_done(vlm: VisionLanguageModel, patch: pytest.MonkeyPatch) -> VisionLanguageModel:
    def act(original: Callable[..., Any], *rest: Any) -> None:
        original(*rest)

    steer_otherwise(patch, act)
    return vlm


def first_row_alone(vlm: VisionLanguageModel, patch: pytest.MonkeyPatch) -> VisionLanguageModel:
    def act(original: Callable[..., Any], self: Any, block: Any, args: Any, output: Any) -> Any:
        moved = original(self, block, args, output)
        return None if moved is None else torch.cat([moved[:1], output[1:]])

    steer_otherwise(patch, act)
    return vlm


def sign_turned(vlm: VisionLanguageModel, patch: pytest.MonkeyPatch) -> VisionLanguageModel:
    def act(original: Callable[..., Any], self: Any, block: Any, args: Any, output: Any) -> Any:
        moved = original(self, block, args, output)
        return None if moved is None else 2 * output - moved

    steer_otherwise(patch, act)
    return vlm


def never_removed(vlm: VisionLanguageModel, patch: pytest.MonkeyPatch) -> VisionLanguageModel:
    original = cmrm.steering.hooks.steer

    @contextmanager
    def steer(vlm: VisionLanguageModel, *rest: Any, **options: Any) -> Iterator[SteeringProof]:
        vlm.blocks[0].register_forward_hook(lambda *_: None)
        with original(vlm, *rest, **options) as proof:
            yield proof

    patch.setattr(cmrm.doctor.side_effects, "steer", steer)
    return vlm


def position_by_counting(vlm: VisionLanguageModel, patch: pytest.MonkeyPatch) -> VisionLanguageModel:
    patch.setattr(cmrm.steering.capture, "last_prompt_positions", lambda mask: mask.sum(dim=1) - 1)
    return vlm


def last_column(vlm: VisionLanguageModel, patch: pytest.MonkeyPatch) -> VisionLanguageModel:
    patch.setattr(
        cmrm.steering.capture, "last_prompt_positions", lambda mask: mask.sum(dim=1) * 0 + mask.shape[1] - 1
    )
    return vlm


def blocks_in_disorder(vlm: VisionLanguageModel, _patch: pytest.MonkeyPatch) -> VisionLanguageModel:
    return replace(vlm, blocks=vlm.blocks[::-1])


def blocks_of_the_tower(vlm: VisionLanguageModel, _patch: pytest.MonkeyPatch) -> VisionLanguageModel:
    return replace(vlm, blocks=tuple(vlm.model.model.vision_tower.encoder.layers))


def answering_without_the_image(vlm: VisionLanguageModel, patch: pytest.MonkeyPatch) -> VisionLanguageModel:
    original = vlm.model.generate

    def generate(pixel_values: torch.Tensor | None = None, **rest: Any) -> Any:
        seen = {} if pixel_values is None else {"pixel_values": torch.zeros_like(pixel_values)}
        return original(**seen, **rest)

    patch.setattr(vlm.model, "generate", generate)
    return vlm


def text_read_at_other_positions(vlm: VisionLanguageModel, patch: pytest.MonkeyPatch) -> VisionLanguageModel:
    original = cmrm.models.forward_arguments.count_positions

    def count(vlm: VisionLanguageModel, inputs: Any) -> dict[str, Any]:
        scale = 1 if "pixel_values" in inputs else 2
        return {name: scale * positions for name, positions in original(vlm, inputs).items()}

    patch.setattr(cmrm.models.forward_arguments, "count_positions", count)
    return vlm


def positions_one_off(vlm: VisionLanguageModel, patch: pytest.MonkeyPatch) -> VisionLanguageModel:
    original = cmrm.prefix.cache.next_positions
    patch.setattr(cmrm.prefix.cache, "next_positions", lambda vlm, inputs: original(vlm, inputs) + 1)
    return vlm


def positions_not_cut(vlm: VisionLanguageModel, patch: pytest.MonkeyPatch) -> VisionLanguageModel:
    original = cmrm.prefix.planner.crop
    patch.setattr(
        cmrm.prefix.planner,
        "crop",
        lambda prefix, tokens: replace(original(prefix, tokens), positions=prefix.positions),
    )
    return vlm


def prefix_of_the_first(vlm: VisionLanguageModel, patch: pytest.MonkeyPatch) -> VisionLanguageModel:
    """In a batch of two images, all rows use the first one's prefix."""
    patch.setattr(cmrm.prefix.cache.SharedLayer, "_spread", lambda self, shared: shared[self.owners * 0])
    return vlm


def one_token_too_many(vlm: VisionLanguageModel, patch: pytest.MonkeyPatch) -> VisionLanguageModel:
    original = cmrm.prefix.planner.count_shared
    patch.setattr(cmrm.prefix.planner, "count_shared", lambda rows, **least: original(rows, **least) + 1)
    return vlm


def branches_off_after_the_prompt(vlm: VisionLanguageModel, patch: pytest.MonkeyPatch) -> VisionLanguageModel:
    patch.setattr(cmrm.decoding.branch_state.BranchState, "set_steering", lambda *_: None)
    return vlm


def branches_seeing_each_other(vlm: VisionLanguageModel, patch: pytest.MonkeyPatch) -> VisionLanguageModel:
    original = cmrm.decoding.branch_state.make_masks
    patch.setattr(
        cmrm.decoding.branch_state,
        "make_masks",
        lambda config, *, visible, **rest: original(
            config, visible=visible.any(dim=1, keepdim=True).expand_as(visible), **rest
        ),
    )
    return vlm


def branches_at_other_positions(vlm: VisionLanguageModel, patch: pytest.MonkeyPatch) -> VisionLanguageModel:
    original = cmrm.doctor.branching.prefill

    def prefill(*arguments: Any) -> Any:
        prefilled = original(*arguments)
        return replace(prefilled, positions=prefilled.positions + 1)

    patch.setattr(cmrm.doctor.branching, "prefill", prefill)
    return vlm


def branches_all_moved_as_the_first(
    vlm: VisionLanguageModel, patch: pytest.MonkeyPatch
) -> VisionLanguageModel:
    tree = cmrm.decoding.tree_decoder.TreeDecoder
    original = tree._pick
    patch.setattr(tree, "_pick", lambda self, arms, index: original(self, arms, 0 * index + 1))
    return vlm


def a_head_of_its_own(vlm: VisionLanguageModel, patch: pytest.MonkeyPatch) -> VisionLanguageModel:
    original = vlm.model.forward

    def forward(*arguments: Any, **rest: Any) -> Any:
        output = original(*arguments, **rest)
        output.logits = -output.logits
        return output

    patch.setattr(vlm.model, "forward", forward)
    return vlm


def always_direct(vlm: VisionLanguageModel, patch: pytest.MonkeyPatch) -> VisionLanguageModel:
    original = cmrm.steering.intervention.compose
    patch.setattr(
        cmrm.steering.intervention,
        "compose",
        lambda intervention, rows: original(replace(intervention, composition="direct"), rows),
    )
    return vlm


def another_image_token(vlm: VisionLanguageModel, _patch: pytest.MonkeyPatch) -> VisionLanguageModel:
    return replace(vlm, image_token_id=vlm.processor.tokenizer.encode("a")[0])


def another_template_with_images(vlm: VisionLanguageModel, _patch: pytest.MonkeyPatch) -> VisionLanguageModel:
    bare = (
        "{% for part in messages[0].content %}{% if part.type == 'image' %}<image>{% else %}{{ part.text }}"
        "{% endif %}{% endfor %}"
    )
    both = f"{{% if messages[0].content | length > 1 %}}{bare}{{% else %}}{vlm.template}{{% endif %}}"
    return replace(vlm, template=both)


def a_processor_that_pads(vlm: VisionLanguageModel, patch: pytest.MonkeyPatch) -> VisionLanguageModel:
    images = vlm.processor.image_processor
    # Images are made smaller than the crop, which is filled up with black.
    patch.setattr(images, "size", type(images)(size={"shortest_edge": 16}).size)
    return vlm


def projecting_the_wrong_way(vlm: VisionLanguageModel, patch: pytest.MonkeyPatch) -> VisionLanguageModel:
    original = Projection.compute_change
    patch.setattr(Projection, "compute_change", lambda *arguments: -original(*arguments))
    return vlm


def projecting_text_alone(vlm: VisionLanguageModel, patch: pytest.MonkeyPatch) -> VisionLanguageModel:
    original = cmrm.steering.hooks._choose_positions
    patch.setattr(
        cmrm.steering.hooks,
        "_choose_positions",
        lambda vlm, scope, *rest: original(vlm, "all" if scope == "every_position" else scope, *rest),
    )
    return vlm


def mixing_the_other_way(vlm: VisionLanguageModel, patch: pytest.MonkeyPatch) -> VisionLanguageModel:
    original = cmrm.decoding.tree_decoder._mix

    def mix(logits: torch.Tensor, rows: Any) -> torch.Tensor:
        leaders = [number for number, row in enumerate(rows) if row.leader is None and row.contrast]
        followers = [number for number, row in enumerate(rows) if row.leader is not None]
        exchanged = logits.clone()
        exchanged[leaders], exchanged[followers] = logits[followers], logits[leaders]
        return original(exchanged, rows)

    patch.setattr(cmrm.decoding.tree_decoder, "_mix", mix)
    return vlm


def asking_the_plain_question(vlm: VisionLanguageModel, patch: pytest.MonkeyPatch) -> VisionLanguageModel:
    patch.setattr(DecodeRequest, "prompt_of", lambda self, row, _arm: self.prompts[row])
    return vlm


BROKEN = [
    (never_acting, "proof of steering"),
    (counted_and_not_done, "exactness"),
    (off_after_prefill, "every step"),
    (off_after_prefill, "reference, every_step"),
    (first_row_alone, "every row"),
    (sign_turned, "exactness"),
    (never_removed, "unload"),
    (position_by_counting, "batch, left padding"),
    (last_column, "batch, right padding"),
    (blocks_in_disorder, "states"),
    (blocks_of_the_tower, "decoder blocks"),
    (answering_without_the_image, "answering"),
    (text_read_at_other_positions, "answering"),
    (positions_one_off, "shared prefixes"),
    (positions_not_cut, "shared prefixes"),
    (prefix_of_the_first, "shared prefixes"),
    (one_token_too_many, "shared prefixes"),
    (always_direct, "reference, incremental"),
    (branches_off_after_the_prompt, "branches"),
    (branches_seeing_each_other, "branches"),
    (branches_at_other_positions, "branches"),
    (branches_all_moved_as_the_first, "branches"),
    (a_head_of_its_own, "branches"),
    (projecting_the_wrong_way, "projection"),
    (projecting_text_alone, "projection"),
    (mixing_the_other_way, "own prompts and mixed logits"),
    (asking_the_plain_question, "own prompts and mixed logits"),
    (another_image_token, "image tokens"),
    (another_template_with_images, "same template"),
    (a_processor_that_pads, "stimulus"),
]


def test_a_correct_model_passes_every_check(vlm: VisionLanguageModel) -> None:
    findings = run_checks(vlm, image_size=32)
    assert [one.name for one in findings] == [check.name for check in CHECKS]
    assert {one.name: one.detail for one in findings if not one.passed} == {}


@pytest.mark.parametrize(
    ("broken", "check"), BROKEN, ids=[f"{broken.__name__}-{check}" for broken, check in BROKEN]
)
def test_a_broken_model_fails_the_check_that_is_about_it(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, broken: Break, check: str
) -> None:
    # Run that check alone: checks do not depend on each other.
    monkeypatch.setattr(cmrm.doctor.examination, "CHECKS", [one for one in CHECKS if one.name == check])
    assert list(failed(broken(vlm, monkeypatch))) == [check]


def test_the_same_prompts_are_rendered_once_and_no_check_has_the_inputs_of_another(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = []
    original = vlm.processor.apply_chat_template

    def apply(turns: Any, **given: Any) -> Any:
        if given.get("tokenize"):
            rendered.append(len(turns))
        return original(turns, **given)

    monkeypatch.setattr(vlm.processor, "apply_chat_template", apply)
    fixture = ModelFixture(vlm=vlm, seed=0, image_size=32)
    first = fixture.render(fixture.pictured)
    kept = {name: value.clone() for name, value in first.items()}
    for value in first.values():
        value.zero_()
    again = fixture.render(fixture.pictured)
    assert rendered == [3]
    assert again.keys() == kept.keys() >= {"input_ids", "pixel_values"}
    assert all(torch.equal(again[name], kept[name]) for name in kept)
    # Equal prompts that are others may have been changed since.
    fixture.render([replace(prompt) for prompt in fixture.pictured])
    assert rendered == [3, 3]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_no_numbers_fail_though_both_answers_have_them(
    vlm: VisionLanguageModel, value: float
) -> None:
    fixture = ModelFixture(vlm=vlm, seed=0, image_size=32)
    logits = torch.arange(STEPS * 4.0).reshape(1, STEPS, 4)
    logits[0, :, 1] = torch.finfo(torch.float32).min
    same = Steps(logits=logits, tokens=torch.ones(1, STEPS, dtype=torch.int64))
    assert agree_in_steps(fixture, same, same, what="here") == 0
    logits[0, 1, 2] = value
    with pytest.raises(CheckFailedError, match="here, token 2: found NaN or inf"):
        agree_in_steps(fixture, same, same, what="here")


def test_an_exception_in_a_check_is_its_finding_and_the_others_still_run(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no kernel image\nfor this device")

    monkeypatch.setattr(vlm.model, "generate", fail)
    found = failed(vlm)
    assert found["every step"] == "RuntimeError: no kernel image"
    assert "states" not in found

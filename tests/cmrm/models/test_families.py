"""The table of families: rows that users add, and paths that lead nowhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cmrm.errors import UserError
from cmrm.models.families import Family
from cmrm.models.family_lookup import ENTRY_POINTS, get_family
from cmrm.models.family_table import FAMILIES
from cmrm.models.vlm import VisionLanguageModel, prepare_model


def test_the_error_of_an_unknown_type_says_what_to_add() -> None:
    with pytest.raises(
        UserError,
        match=r"'tarsier' of some/model is in no table: listed types are aria, .*"
        r"\{blocks: layers, image_token: image_token_id\}.*get_decoder.*docs/models\.md under “A type that is not in",
    ):
        get_family("tarsier", where="some/model")


def test_a_row_that_is_given_goes_before_the_table(vlm: VisionLanguageModel) -> None:
    row = Family(model_type="anything", blocks="layers", image_token="text_config.eos_token_id")
    own = prepare_model(vlm.model, vlm.processor, where="tiny", family=row)
    assert own.family is row
    assert own.image_token_id == vlm.processor.tokenizer.eos_token_id
    assert prepare_model(vlm.model, vlm.processor, where="tiny").family == FAMILIES["llava"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": "lyers"}, r"blocks: 'lyers' leads nowhere .* LlamaModel has no 'lyers'.* layers, norm"),
        ({"blocks": "layers.0.mlp"}, r"blocks: 'layers\.0\.mlp' .* is one LlamaMLP, .* gate_proj"),
        ({"blocks": "layers.9"}, r"ModuleList has no '9'.* 0, 1, 2, 3"),
        ({"image_token": "img"}, r"image_token: 'img' leads to no number .* LlavaConfig has no 'img'.*: image_token_"),
        ({"image_token": "text_config"}, r"'text_config' leads to no number .* there is a LlamaConfig.* bos_token_id"),
        ({"image_token": "text_config.pad_token_id"}, r"LlamaConfig has no 'pad_token_id'.* bos_token_id"),
        ({"image_only_blocks": "text_config.none"}, r"image_only_blocks: .* LlamaConfig has no 'none'"),
        ({"image_only_blocks": "image_token_index"}, r"image_only_blocks: .* leads to no list .* there is a int"),
    ],
)  # fmt: skip
def test_the_error_of_a_path_that_leads_nowhere_lists_what_is_there(
    vlm: VisionLanguageModel, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        prepare_model(vlm.model, vlm.processor, where="tiny", family=replace(vlm.family, **changes))  # type: ignore[arg-type]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Install a package that registers a row: its code, and what its entry point for `tarsier` names."""

    def write(code: str, target: str) -> None:
        (tmp_path / "tarsier_rows.py").write_text(code)
        about = tmp_path / "tarsier_rows-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: tarsier-rows\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\ntarsier = {target}\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "tarsier_rows", raising=False)

    return write


ROW = "from cmrm.models.families import Family\nROW = Family(model_type='tarsier', blocks='h', image_token='img')\n"


def test_a_package_of_the_users_own_can_register_a_row(install: Callable[[str, str], None]) -> None:
    install(ROW, "tarsier_rows:ROW")
    assert get_family("tarsier", where="x") == Family(model_type="tarsier", blocks="h", image_token="img")


@pytest.mark.parametrize(
    ("code", "target", "message"),
    [
        (ROW, "tarsier_rows:GONE", r"tarsier_rows:GONE \(entry point 'tarsier' .* cannot be imported"),
        ("import nothing_of_that_name", "tarsier_rows:ROW", "cannot be imported: No module named 'nothing_of_that"),
        ("ROW = {'blocks': 'h'}", "tarsier_rows:ROW", "is not a Family for model type 'tarsier' but {'blocks'"),
        (ROW.replace("tarsier", "lemur"), "tarsier_rows:ROW", "is not a Family for model type 'tarsier'"),
    ],
)  # fmt: skip
def test_a_registered_row_that_cannot_be_had_is_an_error(
    install: Callable[[str, str], None], code: str, target: str, message: str
) -> None:
    install(code, target)
    with pytest.raises(UserError, match=message):
        get_family("tarsier", where="x")


def test_the_hint_for_an_image_token_names_fields_of_tokens_alone(vlm: VisionLanguageModel) -> None:
    with pytest.raises(UserError) as caught:
        prepare_model(vlm.model, vlm.processor, where="x", family=replace(vlm.family, image_token="img"))
    named = str(caught.value).rpartition("What might be meant: ")[2].rstrip(".").split(", ")
    assert named[0].startswith("image_token_")
    config = vlm.model.config.to_dict()
    for path in named:
        section, _, name = path.rpartition(".")
        assert "token" in name
        assert isinstance((config[section] if section else config)[name], int)
    assert "text_config.bos_token_id" in named

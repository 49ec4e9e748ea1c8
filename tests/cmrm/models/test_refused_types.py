"""A type that the method cannot use is refused by its name, with the reason, before any weights are asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from cmrm.errors import UserError
from cmrm.models.family_table import FAMILIES
from cmrm.models.refused_types import REFUSED_TYPES
from cmrm.models.revision import resolve_model
from flows.cli import main


@pytest.mark.parametrize("model_type", sorted(REFUSED_TYPES))
def test_a_refused_type_costs_a_line_that_says_why_and_what_to_use_instead(
    tmp_path: Path, model_type: str
) -> None:
    # A folder without weights, whatever else it has.
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, "vision_config": {}}))
    with pytest.raises(UserError) as caught:
        resolve_model(str(tmp_path))
    told = str(caught.value)
    assert told.startswith(
        f"model.id: '{tmp_path}' is of type '{model_type}', which cannot be used: "
        f"{REFUSED_TYPES[model_type].reason}. {REFUSED_TYPES[model_type].instead}"
    )
    assert "\n" not in told


def test_the_doctor_refuses_it_with_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "git"}))
    with pytest.raises(SystemExit) as caught:
        main(["doctor", str(tmp_path)])
    assert caught.value.code == 2
    assert (
        "is of type 'git', which cannot be used: its model puts the image before" in capsys.readouterr().err
    )


def test_a_row_of_the_users_own_goes_before_the_table_of_refused_types(
    llava_folder: Path, tmp_path: Path
) -> None:
    for file in llava_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text()) | {"model_type": "fuyu"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    row = {"blocks": "layers", "image_token": "image_token_index"}
    assert resolve_model(str(tmp_path), family=row).model_type == "fuyu"


def test_the_table_names_types_that_transformers_has_and_that_are_not_listed() -> None:
    assert set(REFUSED_TYPES) <= set(CONFIG_MAPPING_NAMES)
    assert set(REFUSED_TYPES).isdisjoint(FAMILIES)
    assert list(REFUSED_TYPES) == sorted(REFUSED_TYPES)

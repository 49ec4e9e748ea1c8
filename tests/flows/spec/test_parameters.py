"""A spec as a flow's parameters give it says what the file does, on the model that they name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from cmrm.errors import UserError
from flows.server.variables import fill_in, list_variables
from flows.spec.parameters import name_given, read_given


def test_the_content_of_a_spec_says_what_its_file_does(small_spec: Path) -> None:
    read = read_given(str(small_spec))
    # Prefect keeps parameters as JSON.
    content = json.loads(json.dumps(read.model_dump(mode="json", by_alias=True)))
    assert read_given(content) == read
    assert name_given(content) == "spec"
    assert name_given({**content, "title": "small"}) == "small"
    with pytest.raises(UserError, match="modle: no such field"):
        read_given({**content, "modle": {}})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("owner/name", ("owner/name", "main")),
        ("owner/name@v1.5", ("owner/name", "v1.5")),
        ("beside", ("{folder}/beside", "main")),
        ("with@sign", ("{folder}/with@sign", "main")),
    ],
)
def test_a_model_takes_the_place_of_the_specs_and_all_else_stays(
    small_spec: Path, given: str, expected: tuple[str, str]
) -> None:
    folder = small_spec.parent
    for name in ("beside", "with@sign"):
        (folder / name).mkdir()
    content = yaml.safe_load(small_spec.read_text())
    content["model"] |= {"revision": "old", "name": "ours", "system": "Be brief."}
    small_spec.write_text(yaml.safe_dump(content))
    before, after = read_given(str(small_spec)), read_given(str(small_spec), model=given)
    assert before.model is not None
    assert after.model is not None
    assert (after.model.id, after.model.revision) == (expected[0].format(folder=folder), expected[1])
    same = {"id", "revision"}
    assert after.model.model_dump(exclude=same) == before.model.model_dump(exclude=same)
    assert after.model_copy(update={"model": None}) == before.model_copy(update={"model": None})


def test_one_model_cannot_take_the_place_of_several(small_spec: Path) -> None:
    content = yaml.safe_load(small_spec.read_text())
    one = content.pop("model")
    content["models"] = [{**one, "name": name} for name in "ab"]
    small_spec.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="the spec has 2 models"):
        read_given(str(small_spec), model="owner/name")


def test_placeholders_are_filled_in_and_one_without_a_value_says_how_to_set_it() -> None:
    values = {"bucket": "s3://bucket", "n": 5}
    text = "{{ prefect.variables.bucket }}/{{prefect.variables.bucket}}/x"
    assert list_variables(text) == ["bucket"]
    assert fill_in(text, values.get, where="store") == "s3://bucket/s3://bucket/x"
    with pytest.raises(
        UserError, match="store: the Prefect variable gone is not set: prefect variable set gone"
    ):
        fill_in("{{ prefect.variables.gone }}", values.get, where="store")
    with pytest.raises(UserError, match="store: the Prefect variable n holds no text"):
        fill_in("{{ prefect.variables.n }}", values.get, where="store")

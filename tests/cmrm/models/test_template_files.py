"""A chat template is taken from the place from which transformers takes it, wherever a folder keeps it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor

from cmrm.errors import UserError
from cmrm.models.chat_template import choose_template
from cmrm.models.family_table import FAMILIES
from cmrm.models.folder_examination import examine_folder
from cmrm.models.loading import load_model
from cmrm.models.pinning import digest_folder
from cmrm.models.revision import resolve_model
from cmrm.models.template_files import describe_template, find_template

# transformers leaves the files of named templates open.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

JINJA, LEGACY, PROCESSOR, TOKENIZER = (
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
    "tokenizer_config.json",
)
DEFAULT_FILE, NAMED_FILE = "additional_chat_templates/default.jinja", "additional_chat_templates/rag.jinja"
LISTED = [{"name": "default", "template": "listed"}, {"name": "rag", "template": "other"}]
MAPPED = {"default": "mapped", "rag": "other"}


@pytest.fixture
def write(llava_folder: Path, tmp_path: Path) -> Callable[[Mapping[str, Any]], Path]:
    """Copy the random LLaVA with chat templates in the given files alone; weights are left out."""

    def write(places: Mapping[str, Any]) -> Path:
        folder = Path(
            shutil.copytree(llava_folder, tmp_path / "model", ignore=lambda *_: [JINJA, "model.safetensors"])
        )
        for name, template in places.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            if name.endswith(".jinja"):
                path.write_text(template)
                continue
            content = json.loads(path.read_text()) if path.exists() else {}
            path.write_text(json.dumps({**content, "chat_template": template}))
        return folder

    return write


@pytest.mark.parametrize(
    ("places", "taken", "others"),
    [
        ({JINJA: "a"}, JINJA, []),
        ({LEGACY: "a"}, LEGACY, []),
        ({LEGACY: "a", JINJA: "b"}, LEGACY, [JINJA]),
        ({PROCESSOR: "a", LEGACY: "b", JINJA: "a"}, PROCESSOR, [LEGACY]),
        ({JINJA: "a", TOKENIZER: "b"}, JINJA, [TOKENIZER]),
        ({TOKENIZER: "a"}, TOKENIZER, []),
        ({TOKENIZER: LISTED}, TOKENIZER, []),
        ({PROCESSOR: LISTED}, PROCESSOR, []),
        ({LEGACY: LISTED}, LEGACY, []),
        ({PROCESSOR: MAPPED}, PROCESSOR, []),
        ({JINJA: "a", NAMED_FILE: "b"}, JINJA, []),
        ({DEFAULT_FILE: "a"}, DEFAULT_FILE, []),
        ({JINJA: "a", DEFAULT_FILE: "b"}, JINJA, [DEFAULT_FILE]),
    ],
)
def test_a_template_is_that_of_the_processor_and_the_folder_says_where_it_is_and_what_differs(
    write: Callable[[Mapping[str, Any]], Path],
    places: Mapping[str, Any],
    taken: str,
    others: list[str],
) -> None:
    folder = write(places)
    processor = AutoProcessor.from_pretrained(folder)
    expected = processor.chat_template or processor.tokenizer.chat_template
    if isinstance(expected, list):
        expected = {one["name"]: one["template"] for one in expected}
    if isinstance(expected, dict):
        expected = expected["default"]
    assert choose_template(processor, FAMILIES["llava"], where="m") == expected
    assert find_template(folder, family=None) == (taken, expected)
    place, fault = describe_template(folder, family=None)
    assert place == taken
    assert (fault is None) == (not others)
    assert all(name in (fault or "") for name in others)


def test_named_templates_without_a_default_are_refused_by_their_names(
    write: Callable[[Mapping[str, Any]], Path],
) -> None:
    processor = AutoProcessor.from_pretrained(write({NAMED_FILE: "a"}))
    with pytest.raises(UserError, match=r"chat templates named rag, and none that is used by default"):
        choose_template(processor, FAMILIES["llava"], where="m")


@pytest.mark.parametrize("place", [JINJA, LEGACY, PROCESSOR, TOKENIZER, DEFAULT_FILE, NAMED_FILE])
def test_a_template_in_any_place_is_part_of_the_revision(
    write: Callable[[Mapping[str, Any]], Path], place: str
) -> None:
    folder = write({place: "a"})
    before = digest_folder(folder)
    (folder / place).write_text((folder / place).read_text().replace('"a"', '"b"') + " ")
    assert digest_folder(folder) != before


def test_loading_says_that_another_template_is_there(llava_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llava_folder, tmp_path / "model"))
    template = (folder / JINJA).read_text()
    (folder / LEGACY).write_text(json.dumps({"chat_template": template.replace("USER: ", "Q: ")}))
    vlm = load_model(resolve_model(str(folder)), dtype="float32", device="cpu")
    assert "Q: " in vlm.template
    (warning,) = [note for note in vlm.notes if note.warning]
    assert warning.about == "chat template"
    assert f"made with the chat template of {LEGACY}, and {JINJA} has another" in warning.text
    (folder / LEGACY).unlink()
    assert not any(note.warning for note in examine_folder(vlm, folder, unread=()))

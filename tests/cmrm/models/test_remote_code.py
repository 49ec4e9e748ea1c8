"""Code that a model brings runs only where it is let, and what runs is part of what the model is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from cmrm.decoding.api import generate
from cmrm.errors import ModelChangedError, UserError
from cmrm.models.families import Family
from cmrm.models.loading import load_model
from cmrm.models.pinning import check_unchanged
from cmrm.models.revision import ModelIdentity, find_revision, resolve_model
from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prompts.conditions import Prompt
from cmrm.steering.capture import embed
from cmrm.steering.intervention import Intervention
from tests.flows.served_hub import MODEL, Hub, serve
from tests.own_code import TYPE, bring_code, edit_config

ROW = {"blocks": "layers", "image_token": "image_token_id"}
FAMILY = Family(model_type=TYPE, **ROW)  # type: ignore[arg-type] # two words


@pytest.fixture
def folder(llava_folder: Path, tmp_path: Path) -> Path:
    return bring_code(Path(shutil.copytree(llava_folder, tmp_path / "turned")))


def resolve(folder: Path) -> ModelIdentity:
    return resolve_model(str(folder), trust_remote_code=True, family=ROW)


def test_its_own_code_runs_where_it_is_let(
    folder: Path, vlm: VisionLanguageModel, noise_prompts: Sequence[Prompt]
) -> None:
    turned = load_model(resolve(folder), dtype="float32", device="cpu", family=FAMILY)
    assert type(turned.model).__name__ == "TurnedLlava"
    states = [embed(one, noise_prompts, blocks=[0, 3]) for one in (turned, vlm)]
    torch.testing.assert_close(*states)
    with torch.inference_mode():
        logits = [one.model(**render(one, noise_prompts)).logits for one in (turned, vlm)]
    torch.testing.assert_close(logits[0], -logits[1])
    delta = torch.ones(1, vlm.hidden_size)
    pushed = Intervention(delta=delta, alpha=1.0, blocks=(2,))
    answers = generate(turned, noise_prompts, max_new_tokens=4, intervention=pushed)
    assert answers.proof is not None
    assert answers.proof.acted[2] > len(noise_prompts)
    assert answers.answers != generate(vlm, noise_prompts, max_new_tokens=4, intervention=pushed).answers


def test_code_and_what_it_reads_is_part_of_what_is_trusted_and_of_nothing_else(folder: Path) -> None:
    first = resolve(folder)
    assert first.revision != find_revision(str(folder))
    (folder / "parts").mkdir()
    for path in ("modeling_turned.py", "turning.py", "parts/more.py", "own.tiktoken", "settings.yaml"):
        before = find_revision(str(folder), trust_remote_code=True)
        with (folder / path).open("a") as file:
            file.write("\n")
        assert find_revision(str(folder), trust_remote_code=True) != before
    assert resolve(folder).revision == find_revision(str(folder), trust_remote_code=True)
    with pytest.raises(ModelChangedError):
        check_unchanged(first)


def test_python_files_are_fetched_from_the_hub_where_they_are_trusted_and_only_there(
    folder: Path, tmp_path: Path
) -> None:
    ask = "import sys; from cmrm.models.revision import resolve_model; "
    with serve(Hub({"a" * 40: folder}, commit="a" * 40)) as hub:
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
        del environment["HF_HUB_OFFLINE"]
        for trust in (False, True):
            hub.asked.clear()
            code = f"{ask}print(resolve_model({MODEL!r}, trust_remote_code={trust}, family={ROW}).revision)"
            done = subprocess.run(
                [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
            )
            assert done.stdout.strip() == "a" * 40, done.stderr
            fetched = {Path(path.partition("?")[0]).name for path in hub.asked if "/resolve/" in path}
            assert ({"modeling_turned.py", "turning.py"} <= fetched) is trust
            assert ("config.json" in fetched) is not trust


def test_changed_code_is_what_runs(folder: Path, noise_prompts: Sequence[Prompt]) -> None:
    logits = []
    for factor in (1, 3):
        (folder / "turning.py").write_text(f"def turn(logits):\n    return {factor} * logits\n")
        loaded = load_model(resolve(folder), dtype="float32", device="cpu", family=FAMILY)
        with torch.inference_mode():
            logits.append(loaded.model(**render(loaded, noise_prompts)).logits)
    torch.testing.assert_close(logits[1], 3 * logits[0])


@pytest.mark.parametrize("row", [None, ROW])
def test_without_trust_nothing_runs_and_the_error_says_what_trust_means(
    folder: Path, row: dict[str, Any] | None
) -> None:
    (folder / "configuration_turned.py").write_text("raise SystemExit")
    before = set(sys.modules)
    with pytest.raises(
        UserError, match=r"has all your permissions.* set model\.trust_remote_code: true"
    ) as caught:
        load_model(resolve_model(str(folder), family=row), device="cpu", family=FAMILY)
    assert "Python code of its own" in str(caught.value)
    assert not [name for name in set(sys.modules) - before if "turned" in name]


@pytest.mark.parametrize(
    ("file", "auto_map"),
    [
        ("config.json", {"AutoConfig": "someone/else--configuration_turned.TurnedLlavaConfig"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["someone/else--tokens.Slow", None]}),
        ("processor_config.json", {"AutoProcessor": "someone/else--processing.Own"}),
    ],
)
def test_code_of_another_repository_is_refused_even_so(
    folder: Path, file: str, auto_map: dict[str, Any]
) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": auto_map}))
    with pytest.raises(UserError, match=rf"{file} of .* another repository, 'someone/else'.* Copy that"):
        resolve(folder)


def test_code_of_another_repository_deep_in_a_config_is_refused_too(folder: Path) -> None:
    text = json.loads((folder / "config.json").read_text())["text_config"]
    edit_config(folder, text_config=text | {"auto_map": {"AutoConfig": "someone/else--own.Config"}})
    with pytest.raises(UserError, match="someone/else"):
        resolve(folder)


def test_code_that_fails_is_named_as_the_cause(folder: Path) -> None:
    (folder / "turning.py").write_text("turn = missing\n")
    with pytest.raises(UserError, match=r"cannot be loaded: name 'missing'.* its own code runs here"):
        load_model(resolve(folder), device="cpu", family=FAMILY)


def test_trust_changes_nothing_of_a_model_without_code(llava_folder: Path, vlm: VisionLanguageModel) -> None:
    identity = resolve_model(str(llava_folder), trust_remote_code=True)
    assert identity.revision == resolve_model(str(llava_folder)).revision
    assert type(load_model(identity, device="cpu").model) is type(vlm.model)

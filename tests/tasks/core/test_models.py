"""A loaded model is what its identity names, whatever happens to its folder, and is loaded once in a process."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

import cmrm.models.loading
from cmrm.errors import ModelChangedError, ModelUnavailableError, UserError
from cmrm.models.adapters import resolve_adapter
from cmrm.models.families import Derivation, Family
from cmrm.models.gguf_weights import resolve_gguf
from cmrm.models.quantization import Quantization
from tasks.core.models import DEVICE_VARIABLE, ModelUse, choose_device, forget_models, load_model_once
from tests.lora import make_lora
from tests.model_uses import use_folder


@pytest.fixture
def folder(llava_folder: Path, tmp_path: Path) -> Iterator[Path]:
    yield Path(shutil.copytree(llava_folder, tmp_path / "model"))
    forget_models()


def test_a_folder_that_changes_while_it_is_loaded_is_refused_and_not_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = cmrm.models.loading.load_model

    def load_and_lose(*arguments: Any, **more: Any) -> Any:
        loaded = load(*arguments, **more)
        template = folder / "chat_template.jinja"
        template.write_text(template.read_text() + "{# another #}")
        return loaded

    chosen = use_folder(folder)
    with monkeypatch.context() as patch:
        patch.setattr(cmrm.models.loading, "load_model", load_and_lose)
        with pytest.raises(ModelChangedError, match="changed while they were being used"):
            load_model_once(chosen)
    with pytest.raises(ModelChangedError):
        load_model_once(chosen)
    assert load_model_once(use_folder(folder)) is load_model_once(use_folder(folder))


def test_loaded_weights_do_not_change_with_their_file(folder: Path) -> None:
    loaded = load_model_once(use_folder(folder))
    before = [parameter.clone() for parameter in loaded.model.parameters()]
    with (folder / "model.safetensors").open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(size // 2)
        file.write(b"\x3f" * (size - size // 2))
    for parameter, earlier in zip(loaded.model.parameters(), before, strict=True):
        assert torch.equal(parameter, earlier)


def test_a_model_keeps_its_name_when_the_link_to_its_folder_is_turned(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(folder)
    chosen = use_folder(link)
    assert chosen.name.startswith("model@")
    link.unlink()
    link.symlink_to(tmp_path)
    assert chosen.name.startswith("model@")
    load_model_once(chosen)


def test_a_folder_that_another_machine_has_is_said_to_be_missing_here(folder: Path) -> None:
    chosen = use_folder(folder)
    shutil.rmtree(folder)
    with pytest.raises(ModelUnavailableError, match="not on this machine"):
        load_model_once(chosen)


def test_what_is_usual_is_in_no_key_and_all_of_it_travels(folder: Path, tmp_path: Path) -> None:
    plain = use_folder(folder)
    assert plain.content() == {
        "model": plain.identity.fingerprint,
        "name": plain.name,
        "dtype": "float32",
        "attn_implementation": "sdpa",
        "system": None,
    }
    assert plain.content_with_images() == {**plain.content(), "image_backend": f"pillow {version('pillow')}"}
    assert plain.describe().keys() == {
        *("name", "label", "id", "revision", "fingerprint", "dtype", "image_backend")
    }
    full = replace(
        plain,
        identity=replace(plain.identity, trust_remote_code=True),
        device_map="auto",
        quantization=Quantization(bits=4, type="nf4"),
        adapter=resolve_adapter(str(make_lora(folder, tmp_path / "lora"))),
        family=Family(model_type="llava", blocks="layers", image_token="image_token_id"),
    )
    assert full.content().keys() == plain.content().keys() | {"quantization", "family", "trust_remote_code"}
    assert replace(full, device_map=None).content() == full.content()
    adapter = TypeAdapter(ModelUse)
    assert adapter.validate_python(json.loads(adapter.dump_json(full))) == full


def test_what_determines_a_derived_row_is_in_the_key_and_another_transformers_refuses(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = use_folder(folder)
    own = replace(plain, derivation=Derivation(rules=1, transformers="5.0"))
    assert {**plain.content(), "family": {"derived": {"rules": 1, "transformers": "5.0"}}} == own.content()
    assert own.content() != replace(own, derivation=Derivation(rules=1, transformers="5.1")).content()
    travelled = TypeAdapter(ModelUse)
    assert travelled.validate_python(json.loads(travelled.dump_json(own))) == own
    with pytest.raises(UserError, match=r"planned with transformers 5\.0; this process has "):
        load_model_once(own)


def test_an_adapter_is_part_of_name_and_fingerprint_and_is_loaded_whole(folder: Path, tmp_path: Path) -> None:
    lora = make_lora(folder, tmp_path / "lora")
    plain = use_folder(folder)
    adapted = replace(plain, adapter=resolve_adapter(str(lora)))
    assert adapted.name.startswith("model+lora@")
    assert adapted.name.startswith("model+lora@" + plain.name.removeprefix("model@") + "+")
    other = replace(
        plain, adapter=resolve_adapter(str(make_lora(folder, tmp_path / "other" / "lora", seed=1)))
    )
    assert len({one.name for one in (plain, adapted, other)}) == 3
    assert len({one.fingerprint for one in (plain, adapted, other)}) == 3
    assert load_model_once(adapted) is not load_model_once(plain)
    (lora / "adapter_config.json").write_text((lora / "adapter_config.json").read_text() + " ")
    forget_models()
    with pytest.raises(ModelChangedError, match=r"model\.adapter\.id"):
        load_model_once(adapted)


def test_weights_of_the_backbone_are_part_of_name_and_fingerprint(folder: Path, tmp_path: Path) -> None:
    # What makes no model of this folder has a checksum all the same.
    files = [tmp_path / "first.gguf", tmp_path / "second.gguf"]
    for file in files:
        file.write_bytes(file.name.encode())
    plain = use_folder(folder)
    first, second = (replace(plain, backbone_weights=resolve_gguf(str(file))) for file in files)
    assert first.name.startswith("model+first@" + plain.name.removeprefix("model@") + "+")
    assert len({one.fingerprint for one in (plain, first, second)}) == 3
    checksum = hashlib.sha256(b"first.gguf").hexdigest()
    assert first.fingerprint == f"{plain.fingerprint}+gguf:sha256:{checksum}"
    assert first.content()["model"] == first.fingerprint
    assert first.describe()["backbone_weights"] == {"gguf": str(files[0]), "revision": f"sha256:{checksum}"}
    assert first.describe()["revision"] == plain.describe()["revision"]
    travelled = TypeAdapter(ModelUse)
    assert travelled.validate_python(json.loads(travelled.dump_json(first))) == first
    files[0].write_bytes(b"changed")
    with pytest.raises(ModelChangedError, match=r"model\.backbone_weights\.gguf: .* changed while"):
        load_model_once(first)


def test_a_process_with_an_assigned_device_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("auto") == "auto"
    monkeypatch.setenv(DEVICE_VARIABLE, "cuda:1")
    assert [choose_device(device) for device in ("auto", "cuda", "cuda:0", "cpu")] == [
        "cuda:1",
        "cuda:1",
        "cuda:0",
        "cpu",
    ]

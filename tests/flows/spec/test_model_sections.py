"""What a spec says of a model: each mistake is told with its full path, and what is right becomes the model's use."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import flows.watch.poll
from cmrm.errors import UserError
from cmrm.models.families import Family
from cmrm.models.quantization import Quantization
from cmrm.models.system_prompts import SYSTEM_LINES
from flows.plan.plan import resolve_use
from flows.run import run_spec
from flows.spec.model_sections import ModelSpec
from flows.spec.spec import check_spec, read_spec
from flows.watch.history import identify_spec
from flows.workers.base import choose_workers
from flows.workers.process import ProcessWorkers, list_devices
from flows.workers.ray import RayWorkers
from storage.store import Store
from tests.lora import make_lora
from tests.own_code import TYPE, bring_code, edit_config

Write = Callable[..., Path]


def check(**model: Any) -> ModelSpec:
    spec = check_spec(
        {
            "model": {"id": "someone/model", **model},
            "datasets": {"own": {"format": "jsonl", "path": "own.jsonl"}},
            "anchors": {"from": {"own": 1.0}},
        },
        where="spec.yaml",
    )
    return spec.all_models()[0]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"device_map": "spread"}, "model.device_map (it is 'spread')"),
        (
            {"device": "cuda:1", "device_map": "auto"},
            "model.device_map (it is 'auto'): it spreads the model over all devices, and device is 'cuda:1'",
        ),
        ({"attn_implementation": "flash"}, "model.attn_implementation (it is 'flash')"),
        ({"image_backend": "opencv"}, "model.image_backend (it is 'opencv')"),
        ({"quantization": {"bits": 3}}, "model.quantization.bits (it is 3)"),
        ({"quantization": {"type": "nf4"}}, "model.quantization.bits: this field is missing"),
        ({"quantization": {"bits": 4, "type": "int4"}}, "model.quantization.type (it is 'int4')"),
        (
            {"quantization": {"bits": 8, "type": "nf4"}},
            "model.quantization.type (it is 'nf4'): this belongs to 4 bits, and bits is 8",
        ),
        ({"quantization": {"bits": 8, "double": True}}, "model.quantization.double (it is True)"),
        ({"backbone_weights": {"file": "text.gguf"}}, "model.backbone_weights.gguf: this field is missing"),
        (
            {"backbone_weights": {"gguf": "text.gguf"}, "quantization": {"bits": 8}},
            "model.backbone_weights: they replace whole weights",
        ),
        ({"adapter": {"name": "lora"}}, "model.adapter.id: this field is missing"),
        ({"family": {"blocks": "layers"}}, "model.family.image_token: this field is missing"),
        (
            {"family": {"blocks": "layers", "image_token": "id", "block": "x"}},
            "model.family.block: no such field. Did you mean 'blocks'?",
        ),
        (
            {"family": {"blocks": "layers", "image_token": "id", "positions": "odd"}},
            "model.family.positions (it is 'odd')",
        ),
        ({"trust_remote_code": "perhaps"}, "model.trust_remote_code (it is 'perhaps')"),
        (
            {"system": "llava_v1"},
            "model.system (it is 'llava_v1'): no system line is called 'llava_v1'; known are llava-v1, vicuna-v1",
        ),
        ({"system": "vicuna-v1.5"}, "known are llava-v1, vicuna-v1"),
        ({"reasoning": "no"}, "model.reasoning (it is 'no'): Input should be 'auto' or 'none'"),
        ({"reasoning": ["<t>"]}, "model.reasoning.1: this field is missing"),
        ({"reasoning": ["<t>", " <t>"]}, "model.reasoning (it is ['<t>', ' <t>']): give two different marks"),
        ({"reasoning": ["<t>", " "]}, "give two different marks, [opening, closing]"),
    ],
)
def test_an_error_names_the_full_path_of_its_field(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        check(**fields)
    assert complaint in str(caught.value)


def test_white_space_around_marks_of_traces_is_dropped_for_answers_have_none() -> None:
    assert check(reasoning=[" <t>\n", "</t>\n\n"]).reasoning == ("<t>", "</t>")


@pytest.mark.parametrize("line", ["Be safe.", "Sicher!", "Assistant.", "你是一个有用的助手", ""])
def test_a_line_of_ones_own_is_taken_as_it_is(line: str, llava_folder: Path) -> None:
    assert resolve_use(check(id=str(llava_folder), system=line)).system == line


def test_a_named_line_is_the_one_of_llavas_templates(llava_folder: Path) -> None:
    for name, word in (("llava-v1", "human"), ("vicuna-v1", "user")):
        use = resolve_use(check(id=str(llava_folder), system=name))
        assert (
            use.system
            == SYSTEM_LINES[name]
            == (
                f"A chat between a curious {word} and an artificial intelligence assistant. "
                f"The assistant gives helpful, detailed, and polite answers to the {word}'s questions."
            )
        )
        assert use.content()["system"] == use.describe()["system"] == use.system


def test_defaults_of_quantization_are_the_same_model_as_when_they_are_written(llava_folder: Path) -> None:
    short, written = (
        resolve_use(check(id=str(llava_folder), quantization=fields))
        for fields in ({"bits": 4}, {"bits": 4, "type": "nf4", "double": False})
    )
    assert short == written
    assert short.quantization == Quantization(bits=4, type="nf4", double=False)
    assert short.content() != resolve_use(check(id=str(llava_folder), quantization={"bits": 8})).content()


def test_a_row_of_ones_own_lets_an_unknown_type_through(llava_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llava_folder, tmp_path / "model"))
    edit_config(folder, model_type="newest_llava")
    with pytest.raises(UserError, match=r"'newest_llava' .* is in no table"):
        resolve_use(check(id=str(folder)))
    use = resolve_use(check(id=str(folder), family={"blocks": "layers", "image_token": "image_token_id"}))
    assert use.family == Family(model_type="newest_llava", blocks="layers", image_token="image_token_id")
    assert use.content()["family"] == {
        "model_type": "newest_llava",
        "blocks": "layers",
        "image_token": "image_token_id",
    }


def test_a_row_that_a_package_registers_is_in_keys_as_one_in_the_spec_is(
    llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(llava_folder, tmp_path / "model"))
    edit_config(folder, model_type="newest_llava")
    row = Family(model_type="newest_llava", blocks="layers", image_token="image_token_id")
    contents = []
    for registered in (row, replace(row, system="Be brief.")):
        entry = SimpleNamespace(
            name="newest_llava", value="rows:ROW", load=lambda registered=registered: registered
        )
        monkeypatch.setattr("cmrm.models.family_lookup.entry_points", lambda entry=entry, **_: [entry])
        use = resolve_use(check(id=str(folder)))
        assert use.family == registered
        contents.append(use.content())
    assert contents[0] != contents[1]
    said = resolve_use(check(id=str(folder), family={"blocks": "layers", "image_token": "image_token_id"}))
    assert contents[0] == said.content()


def test_a_file_of_backbone_weights_is_found_from_the_spec_and_unnamed_in_records_without_one(
    tmp_path: Path,
) -> None:
    section = check(id="a/b", backbone_weights={"gguf": "text.gguf"}).start_paths(tmp_path)
    assert section.backbone_weights is not None
    assert section.backbone_weights.gguf == str(tmp_path / "text.gguf")
    assert section.model_dump()["backbone_weights"] == {"gguf": str(tmp_path / "text.gguf")}
    assert section.asked_for != check(id="a/b").asked_for
    assert "backbone_weights" not in check(id="a/b").model_dump()


def test_a_model_that_is_spread_over_all_devices_has_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert list_devices("auto", None) == ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]
    assert list_devices(check(device_map="balanced").wanted_device, None) == ["auto"]
    assert list_devices(check(device_map="balanced").wanted_device, 2) == ["auto", "auto"]


def test_neither_workers_nor_a_cluster_are_given_a_device_each_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workers = choose_workers("auto", devices={"all", "auto", "cpu"}, server=None)
    assert isinstance(workers, ProcessWorkers)
    assert workers._list_devices() == ["auto"]
    monkeypatch.setattr("ray.cluster_resources", lambda: {"GPU": 12.0, "CPU": 64.0})
    nodes = [{"Alive": True, "Resources": {"GPU": count}} for count in (4.0, 8.0)]
    monkeypatch.setattr("ray.nodes", lambda: [*nodes, {"Alive": True, "Resources": {}}])
    gpus = {
        device: RayWorkers("auto", device=device, server=None)._gpus_of_a_job()
        for device in ("all", "auto", "cuda", "cpu")
    }
    assert gpus == {"all": 8, "auto": 1, "cuda": 1, "cpu": 0}


def test_one_id_with_two_adapters_is_two_models() -> None:
    models = [{"id": "a/b"}, {"id": "a/b", "adapter": {"id": "c/d"}}, {"id": "a/b", "adapter": {"id": "c/e"}}]
    content = {
        "models": models,
        "datasets": {"own": {"format": "jsonl", "path": "own.jsonl"}},
        "anchors": {"from": {"own": 1.0}},
    }
    assert len(check_spec(content, where="spec").all_models()) == 3
    with pytest.raises(UserError, match="could not tell"):
        check_spec({**content, "models": [*models, models[2]]}, where="spec")


@pytest.fixture
def loaded_otherwise(llava_folder: Path, tmp_path: Path, write_spec: Write) -> Path:
    """A spec whose model runs its own code under an adapter, with quantized weights, and a system line."""
    folder = tmp_path / "data"
    bring_code(Path(shutil.copytree(llava_folder, folder / "turned")))
    make_lora(llava_folder, folder / "lora")
    model = {
        "id": "turned",
        "dtype": "float32",
        "adapter": {"id": "lora"},
        "quantization": {"bits": 8},
        "family": {"blocks": "layers", "image_token": "image_token_id"},
        "trust_remote_code": True,
        "system": "vicuna-v1",
        "attn_implementation": "eager",
    }
    path = write_spec(folder, llava_folder, conditions=["query"], interventions=[], shard_size=64)
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"model": model}))
    return path


@pytest.mark.usefixtures("prefect_server")
def test_record_and_report_say_how_the_model_was_loaded(loaded_otherwise: Path, tmp_path: Path) -> None:
    result = run_spec(read_spec(loaded_otherwise), store=str(tmp_path / "store"))
    store = Store.open(str(tmp_path / "store"))
    (model,) = store.read_run(result.run_id)["models"]
    assert model["name"].startswith("turned+lora@")
    assert model["quantization"] == {"bits": 8}
    assert model["trust_remote_code"] is True
    assert model["system"] == SYSTEM_LINES["vicuna-v1"]
    assert model["family"]["model_type"] == TYPE
    assert model["adapter"]["revision"] in model["fingerprint"]
    for name in ("report.md", "report.html"):
        said = store.read(f"reports/{result.run_id}/{name}").decode().replace("\\", "").replace("&#39;", "'")
        for sentence in (
            "ran its own code",
            f"Its LoRA adapter: {loaded_otherwise.parent}/lora, revision sha256:",
            "quantized to 8 bits by bitsandbytes",
            "computed by eager",
            "blocks 'layers'",
            f"began with the system line (vicuna-v1): {SYSTEM_LINES['vicuna-v1']}",
        ):
            assert sentence in said, (name, sentence)
        # Where everybody reads, and where it is looked up.
        assert said.count("ran its own code") == 2


def test_the_watch_polls_for_the_fingerprints_of_the_record(loaded_otherwise: Path) -> None:
    spec = read_spec(loaded_otherwise)
    (use,) = map(resolve_use, spec.all_models())
    assert flows.watch.poll._find_fingerprints(spec) == [use.fingerprint] == [use.describe()["fingerprint"]]
    for path in ("turned/turning.py", "lora/adapter_config.json", "turned/config.json"):
        before = flows.watch.poll._find_fingerprints(spec)
        with (loaded_otherwise.parent / path).open("a") as file:
            file.write("\n")
        assert flows.watch.poll._find_fingerprints(spec) != before, path


def test_the_watch_polls_for_weights_of_the_backbone_and_an_adapter_over_them(
    llava_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.gguf").write_bytes(b"any")
    make_lora(llava_folder, tmp_path / "lora")
    section = check(
        id=str(llava_folder),
        backbone_weights={"gguf": str(tmp_path / "text.gguf")},
        adapter={"id": str(tmp_path / "lora")},
    )
    before = flows.watch.poll._find_fingerprint(section)
    assert before == resolve_use(section).fingerprint
    (tmp_path / "text.gguf").write_bytes(b"other")
    assert flows.watch.poll._find_fingerprint(section) != before


def test_the_device_of_a_model_makes_no_other_spec_for_the_watch(
    llava_folder: Path, small_spec: Path
) -> None:
    plain = read_spec(small_spec)
    placed = plain.model_copy(
        update={"model": check(id=str(llava_folder), dtype="float32", device_map="auto")}
    )
    assert identify_spec(placed) == identify_spec(plain)

"""The format `checkpoint`: an ordinary folder that steers, and what is caught where it would not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from cmrm.errors import UserError
from cmrm.export import FORMATS
from cmrm.export.canary import judge_readings, read_canary
from cmrm.export.candidates import ask
from cmrm.export.format import ExportError
from cmrm.export.loading import load_again
from cmrm.export.local import answer_locally
from cmrm.export.proof import compare_with_hooks
from cmrm.export.reference import Reference, make_probes, make_reference
from cmrm.export.served import read_served
from cmrm.export.writer import write_export
from cmrm.models.loading import load_model
from cmrm.models.revision import resolve_model
from tests.cmrm.export.conftest import BACKBONES, make_request, read_plainly, refer, write

CHECKPOINT = FORMATS.make("checkpoint")
KEYS = ("missing_keys", "unexpected_keys", "mismatched_keys")


def change_text(folder, **changes):
    """Change fields of the text_config of a folder."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["text_config"].update(changes)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_an_exported_folder_computes_what_hooks_at_every_position_do(backbone_folder, backbone, tmp_path):
    request = make_request(backbone_folder(backbone))
    CHECKPOINT.check(request)
    folder = write(request, tmp_path / "out")
    added = {block: -0.5 * vector for block, vector in zip((1, 2), request.shift.subtracted, strict=True)}
    expected, _ = read_plainly(backbone_folder(backbone), added=added)
    plain, _ = read_plainly(backbone_folder(backbone))
    found, info = read_plainly(folder)
    assert [list(info[key]) for key in KEYS] == [[], [], []]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert (plain - expected).abs().max() > 0.1


@pytest.mark.parametrize("backbone", ["mistral", "qwen2"])
def test_a_bias_that_transformers_drops_is_caught_by_loading_by_logits_and_by_the_canary(
    backbone_folder, backbone, tmp_path
):
    request = make_request(backbone_folder(backbone))
    reference = refer(request)
    folder = write(request, tmp_path / "out")
    change_text(folder, model_type=backbone, mlp_bias=True, architectures=None)
    # transformers loads it without an error, and answers as unsteered.
    plain, _ = read_plainly(backbone_folder(backbone))
    found, info = read_plainly(folder)
    assert torch.equal(found, plain)
    assert any("down_proj.bias" in str(key) for key in info["unexpected_keys"])

    with pytest.raises(ExportError, match=r"unexpected keys .*down_proj\.bias"):
        load_again(folder, request, dtype=torch.float32)
    dropped = load_model(resolve_model(str(folder)), device="cpu")
    with pytest.raises(ExportError, match="is not the steered model"):
        compare_with_hooks(dropped, request, reference)
    readings = [
        read_served(answer_locally(dropped, one, max_tokens=one.max_tokens), one)
        for one in reference.canary.prompts
    ]
    assert judge_readings(readings) == "unsteered"


def test_an_export_gets_its_name_with_canary_and_card_once_it_is_proved(backbone_folder, tmp_path):
    request = make_request(backbone_folder("llama"))
    reference = refer(request)
    output = tmp_path / "out"
    exported = write_export(
        request, CHECKPOINT, reference, output=output, describe=lambda _written, proofs: "\n".join(proofs)
    )
    assert read_canary(output / "canary.json") == reference.canary
    assert "logits differ" in (output / "README.md").read_text()
    assert (output / "LICENSE").read_text() == "as you like\n"
    assert {path.name for path in request.model.folder.iterdir()} <= {path.name for path in output.iterdir()}
    assert any("100.0% of the shift survives" in line for line in exported.proofs)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_blocks_that_are_skipped_without_an_image_are_refused_by_number(backbone_folder):
    request = make_request(backbone_folder("llama"))
    vlm = replace(
        load_model(request.model, dtype="float32", device="cpu"), image_only_blocks=frozenset({0, 2})
    )
    with pytest.raises(UserError, match=r"skips blocks 2 in prompts without an image"):
        make_reference(vlm, request, ask([], ["hi"]), format="gguf", acts_at="every_position")


def test_an_export_that_is_not_the_steered_model_leaves_nothing_behind(
    backbone_folder, tmp_path, monkeypatch
):
    request = make_request(backbone_folder("llama"))
    reference = refer(request)
    other = make_request(backbone_folder("llama"), alpha=0.4)
    monkeypatch.setattr(
        type(CHECKPOINT), "write", lambda own, _request, folder: WRITE(own, other, folder), raising=True
    )
    with pytest.raises(ExportError, match="is not the steered model"):
        write_export(request, CHECKPOINT, reference, output=tmp_path / "out", describe=lambda *_: "")
    assert list(tmp_path.iterdir()) == []


WRITE = type(CHECKPOINT).write


def name_bias(block):
    return f"language_model.model.layers.{block}.mlp.down_proj.bias"


def flip(biases):
    return {name: -value for name, value in biases.items()}


def drop(biases):
    return {**biases, name_bias(2): torch.zeros_like(biases[name_bias(2)])}


def swap(biases):
    return {**biases, name_bias(1): biases[name_bias(2)], name_bias(2): biases[name_bias(1)]}


def weaken(biases):
    return {name: value * 0.9 for name, value in biases.items()}


def spoil(biases):
    return {**biases, name_bias(2): torch.full_like(biases[name_bias(2)], torch.nan)}


@pytest.fixture(scope="module")
def referred(backbone_folder):
    """A request, and what hooks give for it."""
    request = make_request(backbone_folder("llama"))
    return request, refer(request)


@pytest.mark.parametrize("change", [flip, drop, swap, weaken, spoil])
def test_a_written_export_with_other_biases_fails_its_proof_by_its_logits(referred, change, tmp_path):
    request, reference = referred
    path = write(request, tmp_path / "out") / "model.safetensors"
    tensors = load_file(path)
    biases = {name_bias(block): tensors[name_bias(block)] for block in request.shift.blocks}
    save_file({**tensors, **change(biases)}, path, metadata={"format": "pt"})
    with pytest.raises(ExportError, match="is not the steered model: at"):
        CHECKPOINT.prove(request, tmp_path / "out", reference)


def test_shards_stay_as_they_are_and_those_without_a_decoder_block_keep_their_bytes(
    make_vlm, backbone_folder, tmp_path
):
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(backbone_folder("llama"))
    source = make_vlm(config.text_config, max_shard_size="40KB")
    request = make_request(source)
    folder = write(request, tmp_path / "out")
    names = {path.name for path in source.glob("*.safetensors")}
    assert len(names) > 3
    assert names == {path.name for path in folder.glob("*.safetensors")}
    tensors = {}
    for name in sorted(names):
        own, new = load_file(source / name), load_file(folder / name)
        if not any("down_proj" in key for key in own):
            assert (source / name).read_bytes() == (folder / name).read_bytes()
        assert all(torch.equal(new[key], value) for key, value in own.items())
        tensors |= dict.fromkeys(new, name) | {}
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == tensors
    size = sum(value.nbytes for name in names for value in load_file(folder / name).values())
    assert index["metadata"]["total_size"] == size
    assert [list(read_plainly(folder)[1][key]) for key in KEYS] == [[], [], []]


def test_weights_are_written_in_the_dtype_to_be_served(backbone_folder, tmp_path):
    request = make_request(backbone_folder("llama"), dtype="bfloat16")
    folder = write(request, tmp_path / "out")
    own, new = (load_file(one / "model.safetensors") for one in (request.model.folder, folder))
    assert {value.dtype for value in new.values()} == {torch.bfloat16}
    assert all(torch.equal(new[name], value.bfloat16()) for name, value in own.items())
    bias = next(value for name, value in new.items() if name.endswith("layers.1.mlp.down_proj.bias"))
    assert torch.equal(bias, (-0.5 * request.shift.subtracted[0]).bfloat16())
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    proofs = CHECKPOINT.prove(request, folder, refer(request))
    assert any("survives the rounding of states to bfloat16" in line for line in proofs)


def test_an_export_can_be_exported_again_and_both_shifts_add_up(backbone_folder, tmp_path):
    first = write(make_request(backbone_folder("qwen2")), tmp_path / "first")
    again = make_request(first, blocks=(2,), alpha=1.0)
    second = write(again, tmp_path / "second")
    once, twice = (load_file(one / "model.safetensors") for one in (first, second))
    (name,) = (name for name in once if name.endswith("layers.2.mlp.down_proj.bias"))
    assert torch.equal(twice[name], once[name] - again.shift.subtracted[0])
    assert {key for key in once if not torch.equal(once[key], twice[key])} == {name}


def test_a_quantized_model_and_one_without_a_matrix_for_each_block_are_refused(backbone_folder, tmp_path):
    from cmrm.errors import UserError

    request = make_request(backbone_folder("llama"))
    with pytest.raises(UserError, match="quantized"):
        CHECKPOINT.check(replace(request, config={**request.config, "quantization_config": {}}))
    with pytest.raises(UserError, match=r"one float matrix mlp\.down_proj of width 32 for each of 4 blocks"):
        CHECKPOINT.check(replace(request, blocks=4))


def test_a_shift_that_the_dtype_rounds_away_is_not_exported(backbone_folder, tmp_path):
    # Far below half a unit in the last place of most states.
    request = make_request(backbone_folder("llama"), dtype="bfloat16", alpha=1e-5)
    folder = write(request, tmp_path / "out")
    vlm = load_model(request.model, dtype="bfloat16", device="cpu")
    probes = make_probes(vlm, request.shift.intervene("every_position"), ask(["hi"], ["hi"], side=32))
    canary = refer(make_request(backbone_folder("llama"), dtype="bfloat16")).canary
    reference = Reference(probes=probes, canary=canary, dtype=torch.bfloat16)
    with pytest.raises(
        ExportError, match="survives the rounding of states to bfloat16; give --dtype float32"
    ):
        CHECKPOINT.prove(request, folder, reference)


def test_a_weights_file_that_ends_at_an_odd_byte_takes_no_bias(backbone_folder, tmp_path):
    from cmrm.errors import UserError
    from cmrm.export.weight_files import copy_weights, read_header

    save_file({"mask": torch.zeros(3, dtype=torch.uint8)}, tmp_path / "odd.safetensors")
    odd = read_header(tmp_path / "odd.safetensors", where="it")
    with pytest.raises(UserError, match="odd byte"):
        copy_weights(odd, tmp_path / "new.safetensors", changed={"bias": torch.zeros(2)})

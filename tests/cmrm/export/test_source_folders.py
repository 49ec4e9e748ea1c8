"""Source folders as people have them: hub caches, old names, other dtypes than the config says, tied weights, links."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, LlamaConfig, MistralConfig, Qwen2Config

from cmrm.errors import UserError
from cmrm.export import FORMATS
from tests.cmrm.export.conftest import BLOCKS, TEXT, make_request, read_plainly, refer, write

CHECKPOINT = FORMATS.make("checkpoint")
WEIGHTS = "model.safetensors"
# How LLaVA's weights were named up to transformers 4.51, and are when they are saved today; and how its modules are.
NAMES = (
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
)


def steer_plainly(folder, request, **loading):
    """Logits under plain torch hooks at every position."""
    added = {
        block: -request.shift.alpha * vector
        for block, vector in zip(request.shift.blocks, request.shift.subtracted, strict=True)
    }
    return read_plainly(folder, added=added, **loading)[0]


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def name_as_modules(name):
    for saved, module in NAMES:
        if name.startswith(saved):
            return module + name.removeprefix(saved)
    raise AssertionError(name)


def change_config(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@pytest.fixture
def source(backbone_folder, tmp_path):
    """A copy of the LLaVA on Llama."""
    return shutil.copytree(backbone_folder("llama"), tmp_path / "source")


def test_a_snapshot_of_a_hub_cache_is_exported_as_plain_files(source, tmp_path):
    repository = tmp_path / "models--mine--tiny"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / ("a" * 40)
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(source.iterdir())):
        shutil.copy(path, blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    request = make_request(snapshot)
    CHECKPOINT.check(request)
    folder = write(request, tmp_path / "out")
    assert not any(path.is_symlink() for path in folder.iterdir())
    assert (folder / "LICENSE").read_text() == "as you like\n"
    assert {path.name for path in folder.iterdir()} == {path.name for path in source.iterdir()}


def test_a_link_out_of_the_models_folder_is_refused_and_hidden_files_stay_behind(source, tmp_path):
    (source / ".mine.json").write_text("{}")
    (source / "pytorch_model.bin.index.json").write_text("{}")
    names = {path.name for path in write(make_request(source), tmp_path / "out").iterdir()}
    assert {"config.json", "tokenizer.json"} <= names
    assert not names & {".mine.json", "pytorch_model.bin.index.json"}
    (tmp_path / "private").write_text("secret")
    (source / "notes.txt").symlink_to(tmp_path / "private")
    with pytest.raises(UserError, match=r"notes\.txt in the model's folder is a link to a file outside"):
        CHECKPOINT.check(make_request(source))


@pytest.mark.parametrize("as_modules", [False, True])
def test_weights_under_names_of_either_release_get_biases_that_load(source, as_modules, tmp_path):
    stem = "language_model.model"
    if as_modules:
        stem, saved = "model.language_model", load_file(source / WEIGHTS)
        save_file(
            {name_as_modules(key): one for key, one in saved.items()}, source / WEIGHTS, {"format": "pt"}
        )
    request = make_request(source)
    folder = write(request, tmp_path / "out")
    assert f"{stem}.layers.1.mlp.down_proj.bias" in load_file(folder / WEIGHTS)
    found, info = read_plainly(folder)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert_same(found, steer_plainly(source, request))


def test_tied_embeddings_stay_tied(make_vlm, backbone_folder, tmp_path):
    vocabulary = json.loads((backbone_folder("llama") / "config.json").read_text())["text_config"][
        "vocab_size"
    ]
    tied = make_vlm(LlamaConfig(**TEXT, vocab_size=vocabulary, tie_word_embeddings=True))
    change_config(tied, lambda config: config.update(tie_word_embeddings=True))
    names = load_file(tied / WEIGHTS)
    save_file(
        {key: one for key, one in names.items() if key != "lm_head.weight"}, tied / WEIGHTS, {"format": "pt"}
    )
    request = make_request(tied)
    folder = write(request, tmp_path / "out")
    found, info = read_plainly(folder)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert_same(found, steer_plainly(tied, request))


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_an_export_is_served_in_the_sources_dtype_where_its_files_have_another(source, tmp_path, name):
    def say_half(config):
        config.pop("dtype", None)
        config["text_config"].pop("dtype", None)
        config[name] = config["text_config"][name] = "bfloat16"

    change_config(source, say_half)
    request = make_request(source)
    folder = write(request, tmp_path / "out")
    assert {one.dtype for one in load_file(folder / WEIGHTS).values()} == {torch.float32}
    kinds = [AutoModelForImageTextToText.from_pretrained(one, dtype="auto").dtype for one in (source, folder)]
    assert kinds == [torch.bfloat16, torch.bfloat16]
    config = json.loads((folder / "config.json").read_text())
    assert (config[name], config["text_config"][name]) == ("bfloat16", "bfloat16")


def test_weights_of_mixed_dtypes_keep_them_and_the_bias_is_as_its_projection(source, tmp_path):
    tensors = load_file(source / WEIGHTS)
    mixed = {
        name: one if name.endswith("bias") or "norm" in name else one.half() for name, one in tensors.items()
    }
    save_file(mixed, source / WEIGHTS, {"format": "pt"})
    request = make_request(source)
    new = load_file(write(request, tmp_path / "out") / WEIGHTS)
    assert all(torch.equal(new[name], one) and new[name].dtype == one.dtype for name, one in mixed.items())
    added = [name for name in new if name not in mixed]
    assert len(added) == 3 * BLOCKS
    assert {new[name].dtype for name in added} == {torch.float16}


def test_a_config_that_leaves_the_defaults_of_its_text_model_out_is_completed_with_the_bias_alone(
    make_vlm, backbone_folder, tmp_path
):
    vocabulary = json.loads((backbone_folder("llama") / "config.json").read_text())["text_config"][
        "vocab_size"
    ]
    folder = make_vlm(LlamaConfig(**{**TEXT, "max_position_embeddings": 2048}, vocab_size=vocabulary))
    plain = LlamaConfig().to_dict()

    def leave_out(config):
        text = config["text_config"]
        for name in [one for one, value in text.items() if plain.get(one) == value and one != "model_type"]:
            del text[name]

    change_config(folder, leave_out)
    said = json.loads((folder / "config.json").read_text())["text_config"]
    assert not {"rms_norm_eps", "hidden_act", "max_position_embeddings"} & set(said)
    request = make_request(folder)
    exported = write(request, tmp_path / "out")
    assert json.loads((exported / "config.json").read_text())["text_config"] == {**said, "mlp_bias": True}
    assert_same(read_plainly(exported)[0], steer_plainly(folder, request))


@pytest.mark.parametrize(("kind", "config"), [("mistral", MistralConfig), ("qwen2", Qwen2Config)])
def test_a_relabelled_config_says_what_its_own_kind_has_by_default(
    make_vlm, backbone_folder, kind, config, tmp_path
):
    vocabulary = json.loads((backbone_folder("llama") / "config.json").read_text())["text_config"][
        "vocab_size"
    ]
    window = {"sliding_window": None} if kind == "mistral" else {}
    rope = {"rope_type": "default", "rope_theta": 1e6}
    own = config(**{**TEXT, "num_attention_heads": 8}, **window, vocab_size=vocabulary, rope_parameters=rope)
    source = make_vlm(own)
    plain = config().to_dict()

    def write_as_before(raw):
        text = raw["text_config"]
        assert text.pop("rope_parameters")["rope_theta"] == text.setdefault("rope_theta", 1e6)
        kept = {"model_type", "sliding_window", "rope_theta"}
        for name in [one for one, value in text.items() if plain.get(one) == value and one not in kept]:
            del text[name]

    change_config(source, write_as_before)
    expected = AutoConfig.from_pretrained(source).text_config
    request = make_request(source)
    CHECKPOINT.check(request)
    folder = write(request, tmp_path / "out")
    found = AutoConfig.from_pretrained(folder).text_config
    assert found.model_type == "llama"
    for name in ("rms_norm_eps", "vocab_size", "num_key_value_heads", "tie_word_embeddings", "hidden_act"):
        assert getattr(found, name) == getattr(expected, name)
    assert found.head_dim == TEXT["hidden_size"] // 8
    assert found.rope_parameters["rope_theta"] == 1e6
    assert found.attention_bias is (kind == "qwen2")
    assert json.loads((folder / "config.json").read_text())["text_config"]["rope_theta"] == 1e6
    assert_same(read_plainly(folder)[0], steer_plainly(source, request))


def test_weights_that_the_dtype_does_not_hold_are_refused_by_name(source, tmp_path):
    tensors = load_file(source / WEIGHTS)
    name = next(one for one in tensors if one.endswith("embed_tokens.weight"))
    tensors[name][3, 2] = 7e4
    save_file(tensors, source / WEIGHTS, {"format": "pt"})
    with pytest.raises(UserError, match=r"float16: .*embed_tokens\.weight has numbers beyond 65504"):
        write(make_request(source, dtype="float16"), tmp_path / "out")
    write(make_request(source, dtype="bfloat16"), tmp_path / "other")


@pytest.mark.parametrize(("own", "asked"), [(1.05, 1.0), (1.0, None), (None, None)])
def test_a_canary_asks_for_no_repetition_penalty_where_servers_would_take_the_models(source, own, asked):
    path = source / "generation_config.json"
    said = json.loads(path.read_text()) | ({} if own is None else {"repetition_penalty": own})
    path.write_text(json.dumps(said))
    assert refer(make_request(source)).canary.repetition_penalty == asked


def test_a_folder_of_pickled_weights_alone_is_refused_with_the_way_out(source):
    request = make_request(source)
    (source / WEIGHTS).rename(source / "pytorch_model.bin")
    with pytest.raises(UserError, match="its weights are in another form"):
        CHECKPOINT.check(request)

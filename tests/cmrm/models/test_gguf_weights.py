"""The language model of a folder can have the weights of a GGUF file, as transformers reads that file by itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from cmrm.errors import ModelChangedError, ModelUnavailableError, UserError
from cmrm.models import optional_packages as extras
from cmrm.models.adapters import resolve_adapter
from cmrm.models.gguf_weights import check_gguf_unchanged, resolve_gguf
from cmrm.models.loading import load_model
from cmrm.models.revision import resolve_model
from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prompts.conditions import Prompt
from tests.gguf_file import make_text_model, write_gguf
from tests.lora import make_lora

Write = Callable[..., Path]
TEXT = "USER: What is it? ASSISTANT:"


@pytest.fixture
def write(llava_folder: Path, tmp_path: Path) -> Write:
    """Write a GGUF file of another language model of the random LLaVA's shape, or of a changed one."""

    def write(folder: Path = llava_folder, *, shape: dict[str, Any] | None = None, **changes: Any) -> Path:
        config = AutoConfig.from_pretrained(folder).text_config
        for name, value in (shape or {}).items():
            setattr(config, name, value)
        return write_gguf(tmp_path / "text.gguf", make_text_model(config, seed=1), folder, **changes)

    return write


def load(folder: Path, file: Path, **options: Any) -> VisionLanguageModel:
    return load_model(
        resolve_model(str(folder)),
        dtype="float32",
        device="cpu",
        backbone_weights=resolve_gguf(str(file)),
        **options,
    )


@pytest.fixture(scope="module")
def file(llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file of another language model of the random LLaVA's shape."""
    config = AutoConfig.from_pretrained(llava_folder).text_config
    place = tmp_path_factory.mktemp("gguf") / "text.gguf"
    return write_gguf(place, make_text_model(config, seed=1), llava_folder, kind=Kind.Q4_1)


@pytest.fixture(scope="module")
def replaced(llava_folder: Path, file: Path) -> VisionLanguageModel:
    """The random LLaVA with the weights of that file."""
    return load(llava_folder, file)


def compute_alone(file: Path, ids: torch.Tensor) -> torch.Tensor:
    """The logits that transformers computes from the GGUF file by itself."""
    text = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    with torch.inference_mode():
        return text(input_ids=ids).logits


def test_texts_have_the_logits_of_the_file_alone_and_the_tower_is_the_folders(
    replaced: VisionLanguageModel, llava_folder: Path, file: Path, vlm: VisionLanguageModel
) -> None:
    ids = AutoTokenizer.from_pretrained(llava_folder)(TEXT, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logits, before = (one.model(input_ids=ids).logits for one in (replaced, vlm))
    torch.testing.assert_close(logits, compute_alone(file, ids), atol=1e-5, rtol=1e-5)
    assert (logits - before).abs().max() > 0.1
    tower = {name: one for name, one in vlm.model.state_dict().items() if "vision" in name or "multi" in name}
    assert tower
    assert all(torch.equal(one, replaced.model.state_dict()[name]) for name, one in tower.items())
    (note,) = [note for note in replaced.notes if note.about == "backbone weights"]
    assert note.text.startswith("39 tensors of text.gguf (F32, Q4_1), dequantized")


def test_rows_of_tokens_that_the_file_does_not_have_stay_the_folders(
    write: Write, llava_folder: Path, vlm: VisionLanguageModel
) -> None:
    # As of a backbone that knows no placeholders, which a LLaVA adds behind its tokens.
    loaded = load(llava_folder, write(shape={"vocab_size": 250}))
    for own, other in (
        (loaded.model.get_input_embeddings(), vlm.model.get_input_embeddings()),
        (loaded.model.get_output_embeddings(), vlm.model.get_output_embeddings()),
    ):
        assert torch.equal(own.weight[250:], other.weight[250:])
        assert not torch.equal(own.weight[:250], other.weight[:250])


def test_an_adapter_lies_over_the_files_weights(
    replaced: VisionLanguageModel,
    llava_folder: Path,
    file: Path,
    tmp_path: Path,
    *,
    noise_prompts: list[Prompt],
) -> None:
    lora = make_lora(llava_folder, tmp_path / "lora")
    adapted = load(llava_folder, file, adapter=resolve_adapter(str(lora)))
    adapted.model.disable_adapters()
    inputs = render(replaced, noise_prompts)
    with torch.inference_mode():
        expected, without = (one.model(**inputs).logits for one in (replaced, adapted))
        adapted.model.enable_adapters()
        over = adapted.model(**inputs).logits
    assert torch.equal(without, expected)
    assert (over - expected).abs().max() > 0.1


@pytest.mark.parametrize(
    ("shape", "changes", "said"),
    [
        ({"num_hidden_layers": 3}, {}, "its num_hidden_layers is 3, and the model's config.json has 4"),
        ({"intermediate_size": 32}, {}, "its intermediate_size is 32"),
        ({"num_key_value_heads": 4}, {}, "its num_key_value_heads is 4"),
        ({"num_attention_heads": 2, "head_dim": 16}, {}, "its num_attention_heads is 2"),
        ({"vocab_size": 264}, {"tokens": [f"t{i}" for i in range(264)]}, "its token 0 is 't0'"),
        ({}, {"rope_theta": 500_000.0}, "its rope_theta is 500000, and the model's config.json has 10000"),
        ({}, {"eps": 1e-5}, "its rms_norm_eps is"),
        ({}, {"more": {"rope_freqs": torch.ones(4)}}, "does not scale its rotary embedding"),
        (
            {},
            {"more": {"blk.0.unknown.weight": torch.ones(4)}},
            "holds 40 tensors, of which transformers reads 39",
        ),
    ],
)
def test_a_file_of_another_model_is_refused_by_what_differs(
    write: Write, llava_folder: Path, shape: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError) as caught:
        load(llava_folder, write(shape=shape, **changes))
    assert str(caught.value).startswith("model.backbone_weights.gguf: ")
    assert said in str(caught.value)


def test_a_file_with_a_head_of_its_own_does_not_fit_a_model_that_shares_it(
    write: Write, llava_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(llava_folder, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    kept = {name: one for name, one in weights.items() if not name.endswith("lm_head.weight")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="the model has one matrix for both"):
        load(folder, write())


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no such file at all, but a text of some length"])
def test_what_is_no_gguf_is_refused(llava_folder: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "text.gguf").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.backbone_weights\.gguf: .* transformers cannot read it"):
        load(llava_folder, tmp_path / "text.gguf")


def test_an_architecture_that_transformers_does_not_read_is_named(write: Write, llava_folder: Path) -> None:
    file = write()
    data = file.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0clip_")
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"transformers cannot read it: .*clip_"):
        load(llava_folder, file)


def test_a_file_is_identified_by_its_content_and_a_change_is_seen(write: Write, tmp_path: Path) -> None:
    file = write()
    first = resolve_gguf(str(file))
    copy = Path(shutil.copy(file, tmp_path / "copy.gguf"))
    assert resolve_gguf(str(copy)).revision == first.revision
    check_gguf_unchanged(first)
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(ModelChangedError, match=r"model\.backbone_weights\.gguf: .* changed while"):
        check_gguf_unchanged(first)
    file.unlink()
    with pytest.raises(ModelUnavailableError, match=r"model\.backbone_weights\.gguf: .* cannot be read"):
        resolve_gguf(str(file))
    with pytest.raises(UserError, match=r"is no \.gguf file"):
        resolve_gguf(str(tmp_path / "model.bin"))


def test_without_gguf_one_line_says_what_to_install(
    write: Write, llava_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write()
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"needs the package accelerate.*'cmrm\[gguf\]'"):
        load(llava_folder, file)

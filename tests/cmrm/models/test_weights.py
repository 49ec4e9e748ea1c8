"""Every model is loaded by the same rules, judges and CLIP too: no weight is made up, and no pickled one is read."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
)

from cmrm.datasets.clip import load_clip, resolve_clip
from cmrm.errors import UserError
from cmrm.judges.checkpoint import load_checkpoint
from cmrm.models import weights
from cmrm.models.model_classes import Classes
from cmrm.models.pinning import digest_folder
from cmrm.models.weights import load_config, load_weights

LLAVA = Classes(config=AutoConfig, model=AutoModelForImageTextToText)


def load_judge(folder: Path) -> None:
    load_checkpoint(str(folder), digest_folder(folder), dtype="float32", device="cpu")


def load_pairing_model(folder: Path) -> None:
    load_clip(resolve_clip(str(folder)), device="cpu")


@pytest.mark.parametrize(
    ("kind", "load", "lost"),
    [
        ("llava_folder", load_judge, "layers.2.mlp.down_proj"),
        ("clip_folder", load_pairing_model, "visual_projection"),
    ],
)
def test_a_judge_and_clip_are_refused_where_a_weight_is_missing(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, load: Callable[[Path], None], lost: str
) -> None:
    folder = Path(shutil.copytree(request.getfixturevalue(kind), tmp_path / "model"))
    kept_all = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in kept_all.items() if lost not in name}
    assert len(kept) == len(kept_all) - 1
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"'{folder}' holds no weights for .*{lost}"):
        load(folder)


def test_pickled_weights_are_not_read_even_where_there_are_no_others(
    llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(llava_folder, tmp_path / "model"))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    config = load_config(folder, LLAVA, attention=None)
    # Nothing of cmrm refuses them here, but what is asked of transformers.
    monkeypatch.setattr(weights, "need_memory", lambda *_, **__: None)
    with pytest.raises(OSError, match=r"model\.safetensors"):
        load_weights(folder, LLAVA, config, dtype="float32", device=torch.device("cpu"), where="m")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_those_of_the_file_in_the_dtype_that_was_asked_for(
    llava_folder: Path, dtype: str
) -> None:
    config = load_config(llava_folder, LLAVA, attention="eager")
    model = load_weights(llava_folder, LLAVA, config, dtype=dtype, device=torch.device("cpu"), where="m")
    assert model.config._attn_implementation == "eager"
    (stored,) = (
        tensor
        for name, tensor in load_file(llava_folder / "model.safetensors").items()
        if "layers.2.mlp.down_proj" in name
    )
    (loaded,) = (
        tensor for name, tensor in model.named_parameters() if "language_model.layers.2.mlp.down_proj" in name
    )
    assert torch.equal(loaded, stored.to(getattr(torch, dtype)))


def test_two_threads_load_one_after_the_other_and_models_stay_tied_after_it(
    llava_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(llava_folder, LLAVA, attention=None)
    make = LlavaForConditionalGeneration.__init__
    second, together = Event(), list[bool]()

    def make_slowly(self: LlavaForConditionalGeneration, *arguments: Any, **named: Any) -> None:
        if not together:
            # Of two that are here at once, the first would hear of the second.
            together.append(True)
            together[0] = second.wait(0.5)
        second.set()
        make(self, *arguments, **named)

    monkeypatch.setattr(LlavaForConditionalGeneration, "__init__", make_slowly)
    settings: dict[str, Any] = {"dtype": "float32", "device": torch.device("cpu"), "where": "m"}
    with ThreadPoolExecutor(2) as threads:
        loads = [
            threads.submit(load_weights, llava_folder, LLAVA, copy.deepcopy(config), **settings)
            for _ in range(2)
        ]
        assert all(one.result() for one in loads)
    assert together == [False]
    tied = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=8,
            intermediate_size=8,
            num_attention_heads=2,
            num_hidden_layers=1,
            tie_word_embeddings=True,
        )
    )
    assert tied.lm_head.weight is tied.model.embed_tokens.weight

"""What all tests share: no network, one torch thread, and a random LLaVA small enough to run anywhere."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import subprocess
import sys
import tempfile

os.environ.update(
    HF_HUB_OFFLINE="1",
    DO_NOT_TRACK="1",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    CMRM_CACHE=tempfile.mkdtemp(prefix="cmrm-tests-"),
    # Where transformers keeps the code that models bring.
    HF_MODULES_CACHE=tempfile.mkdtemp(prefix="cmrm-tests-"),
)

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from tests.made_once import copy_made

torch.set_num_threads(1)
# What a saved model's files depend on, beside the code that builds it.
MODEL_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors")
# Thresholds of the collection of garbage.
USUALLY = gc.get_threshold()
# The same examples every time, and no judgement by the clock of a busy machine.
settings.register_profile(
    "deterministic", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("deterministic")


def pytest_collection() -> None:
    """Look for garbage rarely while the tests are imported: that makes a million objects, and they stay."""
    gc.set_threshold(100 * USUALLY[0])


def pytest_collection_finish() -> None:
    """Leave what the tests have imported out of every later collection of garbage: it stays to the end.

    A collection is asked for by the tests of memory, among others, and would look at all of it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*USUALLY)


def pytest_sessionfinish() -> None:
    """Let Python's end find everything again: some libraries complain of what is left over."""
    gc.unfreeze()


@pytest.fixture(scope="module", autouse=True)
def _without_inspects_log() -> Iterator[None]:
    """An evaluation of Inspect has every record of its process printed from then on: here to the end of the module."""
    root = logging.getLogger()
    level = root.level
    yield
    for handler in [one for one in root.handlers if type(one).__module__.startswith("inspect_ai")]:
        root.removeHandler(handler)
        logging.getLogger("inspect_ai").removeHandler(handler)
        root.setLevel(level)
        # The next evaluation adds one anew.
        sys.modules[type(handler).__module__]._logHandler["handler"] = None  # type: ignore[attr-defined]


@pytest.fixture(scope="session", autouse=True)
def _remove_cache() -> Iterator[None]:
    """The caches are of this process and its children alone, and gone with it."""
    yield
    for name in ("CMRM_CACHE", "HF_MODULES_CACHE"):
        shutil.rmtree(os.environ[name], ignore_errors=True)


class Mount:
    """A small disk of its own, to fill, to write-protect and to lose."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._behind = place.with_name("behind")
        self._behind.mkdir()
        self.place.mkdir()

    def start(self, size: str) -> None:
        """Mount it; skips the test where that is not allowed."""
        self._call("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self._behind))
        self.attach()

    def attach(self) -> None:
        """Put the disk in its place (again)."""
        self._call("mount", "--bind", str(self._behind), str(self.place))

    def detach(self) -> None:
        """Take the disk out of its place, though it may be in use."""
        subprocess.run(["umount", "--lazy", str(self.place)], check=False, capture_output=True)

    def remount(self, options: str, *, place: Path | None = None) -> None:
        """Change the disk's size, or whether it can be written."""
        self._call("mount", "-o", f"remount,{options}", str(place or self._behind))

    def protect(self) -> None:
        """Let nothing be written any more."""
        self.remount("bind,ro", place=self.place)

    def allow(self) -> None:
        """Let it be written again."""
        self.remount("bind,rw", place=self.place)

    def stop(self) -> None:
        """Unmount it."""
        self.detach()
        subprocess.run(["umount", "--lazy", str(self._behind)], check=False, capture_output=True)

    def _call(self, *command: str) -> None:
        if shutil.which(command[0]) is None:
            pytest.skip("no disk can be mounted here: there is no mount command")
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Mount]:
    """A real disk at tmp_path/disk, not mounted yet."""
    mount = Mount(tmp_path / "disk")
    yield mount
    mount.stop()


# The form of LLaVA-1.5's own template, with its system line optional.
TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'system' %}{{ message.content[0].text + ' ' }}{% else %}"
    "USER: {% for part in message.content %}{% if part.type == 'image' %}<image>\n{% else %}{{ part.text }}"
    "{% endif %}{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def build_small_llava(folder: Path) -> Path:
    """Save the random LLaVA that most tests use."""
    return build_llava(folder, image_size=32, patch_size=8)


def build_llava(folder: Path, *, image_size: int, patch_size: int) -> Path:
    """Save a random LLaVA with a byte-level tokenizer, 4 blocks × 32, and a processor of the given sizes."""
    torch.manual_seed(0)
    special = ["<pad>", "<s>", "</s>", "<image>"]
    letters = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    bytes_only = Tokenizer(models.BPE(vocab=letters, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_only,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
        ),
        tokenizer=tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            image_size=image_size,
            patch_size=patch_size,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
        ),
        text_config=LlamaConfig(
            vocab_size=len(letters),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            initializer_range=0.3,
        ),
        image_token_index=letters["<image>"],
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = letters["</s>"]
    model.generation_config.pad_token_id = letters["<pad>"]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_llava() -> Callable[..., Path]:
    """The builder of random LLaVA folders, for tests that need other sizes."""
    return build_llava


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaVA with 32-pixel images of 16 tokens."""
    place = tmp_path_factory.mktemp("llava")
    return copy_made("llava", build_small_llava, place, packages=MODEL_PACKAGES, sources=[build_llava])


def build_clip(folder: Path, *, seed: int) -> Path:
    """Save a random CLIP of 32-pixel images and 77 tokens, each letter a token, whose vectors are 16 wide."""
    torch.manual_seed(seed)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<|startoftext|>", *letters, *(f"{letter}</w>" for letter in letters), "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={word: number for number, word in enumerate(words)}, merges=[], model_max_length=77
    )
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CLIPConfig(
        text_config=CLIPTextConfig(
            vocab_size=len(words),
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **size,
        ).to_dict(),
        vision_config=CLIPVisionConfig(image_size=32, patch_size=8, **size).to_dict(),
        projection_dim=16,
        # The usual start, 0.02, would leave all vectors of so small a model alike.
        initializer_factor=10.0,
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP."""
    return build_clip(tmp_path_factory.mktemp("clip"), seed=0)


@pytest.fixture(scope="session")
def make_clip() -> Callable[..., Path]:
    """The builder of random CLIP folders, for tests that need another."""
    return build_clip

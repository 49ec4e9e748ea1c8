"""Weights that need more memory than is free are refused before they are read, with both figures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedConfig, PreTrainedModel

import cmrm.models.memory
from cmrm.datasets.clip import load_clip, resolve_clip
from cmrm.errors import UserError
from cmrm.judges.checkpoint import load_checkpoint
from cmrm.models.loading import load_model
from cmrm.models.memory import choose_cast, count_weight_bytes, measure_free_bytes, need_memory
from cmrm.models.model_classes import Classes
from cmrm.models.pinning import digest_folder
from cmrm.models.revision import resolve_model
from cmrm.models.weights import load_with_info

CPU = torch.device("cpu")
MIB = 1 << 20


@pytest.fixture
def _unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail whatever reads weights."""

    def read(*_args: Any, **_given: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", read)


def free(monkeypatch: pytest.MonkeyPatch, **by_device: int) -> None:
    monkeypatch.setattr(cmrm.models.memory, "measure_free_bytes", lambda device: by_device[device.type])


@pytest.mark.parametrize(("dtype", "factor"), [(None, 1.0), (torch.float32, 1.0), (torch.bfloat16, 0.5)])
def test_weights_take_the_bytes_of_their_elements_in_the_dtype_asked_for(
    llava_folder: Path, dtype: torch.dtype | None, factor: float
) -> None:
    weights = load_file(llava_folder / "model.safetensors")
    expected = sum(one.nbytes for one in weights.values())
    assert count_weight_bytes(llava_folder, dtype=dtype, where="here") == factor * expected


def test_numbers_that_are_not_floating_keep_their_size(tmp_path: Path) -> None:
    kept = {
        "a": torch.zeros(3, 5, dtype=torch.int64),
        "b": torch.zeros(7, dtype=torch.float32),
        "c": torch.zeros(4, dtype=torch.bool),
        "d": torch.zeros(6, dtype=torch.float8_e4m3fn),
    }
    save_file(kept, tmp_path / "model.safetensors")
    assert count_weight_bytes(tmp_path, dtype=None, where="here") == sum(one.nbytes for one in kept.values())
    assert count_weight_bytes(tmp_path, dtype=torch.float16, where="here") == 3 * 5 * 8 + 7 * 2 + 4 + 6 * 2


def test_eight_bits_of_a_quantized_checkpoint_stay_on_a_gpu_and_are_dequantized_on_a_cpu(
    tmp_path: Path,
) -> None:
    kept = {"a": torch.zeros(6, dtype=torch.float8_e4m3fn), "b": torch.zeros(7, dtype=torch.float32)}
    save_file(kept, tmp_path / "model.safetensors")
    plain, quantized = PreTrainedConfig(), PreTrainedConfig(quantization_config={"quant_method": "fp8"})

    def count(config: PreTrainedConfig, device: str) -> int:
        cast = choose_cast(config, torch.device(device))
        return count_weight_bytes(tmp_path, dtype=torch.bfloat16, where="here", cast=cast)

    assert count(quantized, "cuda") == 6 * 1 + 7 * 2
    assert count(quantized, "cpu") == count(plain, "cuda") == 6 * 2 + 7 * 2


@pytest.mark.usefixtures("_unread")
def test_a_quantized_checkpoint_that_fits_into_a_gpu_as_it_is_saved_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"a": torch.zeros(6, dtype=torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    config = PreTrainedConfig(quantization_config={"quant_method": "fp8"})
    classes = Classes(config=PreTrainedConfig, model=PreTrainedModel)
    given: dict[str, Any] = {"dtype": "bfloat16", "device": torch.device("cuda"), "where": "m"}
    free(monkeypatch, cuda=6)
    with pytest.raises(AssertionError, match="weights were read"):
        load_with_info(tmp_path, classes, config, **given)
    free(monkeypatch, cuda=5)
    with pytest.raises(UserError, match="needs"):
        load_with_info(tmp_path, classes, config, **given)


@pytest.mark.usefixtures("_unread")
def test_a_model_a_judge_and_clip_are_refused_before_their_weights_are_read(
    llava_folder: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, cpu=99_000)
    need = sum(one.nbytes for one in load_file(llava_folder / "model.safetensors").values()) / MIB
    said = rf"needs {need:.1f} MiB for its weights, and cpu has 0\.1 MiB free\. Give a smaller dtype"
    with pytest.raises(UserError, match=rf"model\.id: .*{said}"):
        load_model(resolve_model(str(llava_folder)), dtype="float32", device="cpu")
    with pytest.raises(UserError, match=said):
        load_checkpoint(str(llava_folder), digest_folder(llava_folder), dtype="float32", device="cpu")
    with pytest.raises(UserError, match=r"clip\.id: .* needs .* for its weights, and cpu has"):
        load_clip(resolve_clip(str(clip_folder)), device="cpu")


def test_memory_that_just_suffices_is_enough(llava_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need = sum(one.nbytes for one in load_file(llava_folder / "model.safetensors").values())
    settings: dict[str, Any] = {"dtype": torch.float32, "device": CPU, "spread": False, "where": "m"}
    free(monkeypatch, cpu=need)
    need_memory(llava_folder, saved=0, **settings)
    free(monkeypatch, cpu=need - 1)
    with pytest.raises(UserError, match="needs"):
        need_memory(llava_folder, saved=0, **settings)
    need_memory(llava_folder, saved=1, **settings)


def test_a_device_map_may_use_all_gpus_and_the_ram(
    llava_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    need = sum(one.nbytes for one in load_file(llava_folder / "model.safetensors").values())
    settings: dict[str, Any] = {
        "dtype": torch.float32,
        "device": torch.device("cuda"),
        "saved": 0,
        "where": "m",
    }
    free(monkeypatch, cuda=need // 3, cpu=need // 2)
    need_memory(llava_folder, spread=True, **settings)
    with pytest.raises(UserError, match=r"and cuda has"):
        need_memory(llava_folder, spread=False, **settings)
    free(monkeypatch, cuda=need // 4, cpu=need // 3)
    with pytest.raises(UserError, match=re.escape("this machine (2 GPUs and RAM together) has")):
        need_memory(llava_folder, spread=True, **settings)


def test_a_container_is_not_taken_for_the_whole_machine_nor_cached_files_for_memory_in_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = measure_free_bytes(CPU)
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    (tmp_path / "memory.stat").write_text("anon 250000\nactive_file 100000\ninactive_file 50000\n")
    monkeypatch.setattr(cmrm.models.memory, "CGROUP", tmp_path)
    assert measure_free_bytes(CPU) == 750_000
    (tmp_path / "memory.max").write_text("max\n")
    assert measure_free_bytes(CPU) > machine // 2

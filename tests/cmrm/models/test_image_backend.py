"""The image backend of a model's folder: which ones its processor has, which one is taken, and how it is pinned."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

import cmrm.models.image_backend
from cmrm.errors import UserError
from cmrm.models.image_backend import list_image_backends, pin_image_backend, use_image_backend

PILLOW = f"pillow {version('pillow')}"


def write(folder: Path, **config: str) -> Path:
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    return folder


def pretend(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    def find(package: str) -> str:
        if package not in versions:
            raise PackageNotFoundError(package)
        return versions[package]

    monkeypatch.setattr(cmrm.models.image_backend, "version", find)


def test_each_image_processor_has_the_backends_that_transformers_lists(tmp_path: Path) -> None:
    for model_type, classes in IMAGE_PROCESSOR_MAPPING_NAMES.items():
        wanted = tuple(
            ours for ours, theirs in (("pillow", "pil"), ("torchvision", "torchvision")) if theirs in classes
        )
        for name in classes.values():
            assert list_image_backends(write(tmp_path, image_processor_type=name)) == wanted, name
        (tmp_path / "preprocessor_config.json").unlink()
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        assert list_image_backends(tmp_path) == wanted, model_type


@pytest.mark.parametrize(
    "config",
    [
        {"image_processor_type": "CLIPImageProcessorFast"},
        {"image_processor_type": "CLIPImageProcessorPil"},
        {"feature_extractor_type": "CLIPFeatureExtractor"},
    ],
)
def test_older_names_of_an_image_processor_are_known(tmp_path: Path, config: dict[str, str]) -> None:
    assert list_image_backends(write(tmp_path, **config)) == ("pillow", "torchvision")


def test_the_file_of_the_whole_processor_goes_first(tmp_path: Path) -> None:
    write(tmp_path, image_processor_type="Llama4ImageProcessor")
    own = {"image_processor": {"image_processor_type": "CLIPImageProcessor"}}
    (tmp_path / "processor_config.json").write_text(json.dumps(own))
    assert list_image_backends(tmp_path) == ("pillow", "torchvision")


def test_pillow_is_taken_unless_only_torchvision_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, pillow="13.0.0", torchvision="0.28.0+cu128")
    write(tmp_path, image_processor_type="CLIPImageProcessor")
    assert pin_image_backend(tmp_path, where="m") == "pillow 13.0.0"
    assert pin_image_backend(tmp_path, asked="torchvision", where="m") == "torchvision 0.28.0, pillow 13.0.0"
    write(tmp_path, image_processor_type="Llama4ImageProcessor")
    assert pin_image_backend(tmp_path, where="m") == "torchvision 0.28.0, pillow 13.0.0"
    # Code of the model's own, which transformers does not list.
    write(tmp_path, image_processor_type="OwnImageProcessor")
    assert pin_image_backend(tmp_path, where="m") == "pillow 13.0.0"


def test_a_backend_that_the_processor_does_not_have_is_one_line_with_the_fix(tmp_path: Path) -> None:
    write(tmp_path, image_processor_type="Llama4ImageProcessor")
    with pytest.raises(UserError) as caught:
        pin_image_backend(tmp_path, asked="pillow", where="someone/llama-4")
    assert str(caught.value) == (
        "model.image_backend: the image processor of 'someone/llama-4' has no pillow backend in transformers, only "
        "torchvision; set image_backend: torchvision."
    )


def test_a_missing_package_is_reported_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, pillow="13.0.0")
    write(tmp_path, image_processor_type="Llama4ImageProcessor")
    with pytest.raises(UserError, match=r"needs the package torchvision.*pip install 'cmrm\[vision\]'"):
        pin_image_backend(tmp_path, where="m")


def test_a_worker_with_another_version_than_was_planned_with_is_refused(tmp_path: Path) -> None:
    write(tmp_path, image_processor_type="CLIPImageProcessor")
    assert pin_image_backend(tmp_path, asked=PILLOW, where="m") == PILLOW
    with pytest.raises(UserError, match=rf"planned with pillow 1\.0, and this process has {PILLOW}"):
        pin_image_backend(tmp_path, asked="pillow 1.0", where="m")


def test_what_transformers_falls_back_to_is_refused(llava_folder: Path) -> None:
    # Without torchvision, transformers gives Pillow's class where the other is asked for, and warns.
    processor = SimpleNamespace(image_processor=SimpleNamespace(backend="pil"))
    with pytest.raises(UserError, match=r"has no torchvision backend in transformers, only pillow"):
        use_image_backend(processor, llava_folder, backend="torchvision 0.28.0, pillow 13.0.0", where="m")


def test_an_image_processor_that_does_not_say_its_backend_is_left_as_it_is(llava_folder: Path) -> None:
    own = SimpleNamespace()
    processor = SimpleNamespace(image_processor=own)
    use_image_backend(processor, llava_folder, backend=PILLOW, where="m")
    assert processor.image_processor is own

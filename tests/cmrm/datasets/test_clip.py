"""CLIP's vectors are transformers' own, of length 1, and owe nothing to who shares the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPModel

from cmrm.datasets.clip import Clip, embed_images, embed_texts, load_clip, resolve_clip
from cmrm.errors import UserError
from cmrm.prompts.meaningless_images import noise_image

TEXTS = ["a dog", "the same dog beside a red car on the road", "", "ж", "o" * 500]


@pytest.fixture(scope="module")
def clip(clip_folder: Path) -> Clip:
    return load_clip(resolve_clip(str(clip_folder)), device="cpu")


@pytest.fixture(scope="module")
def images():
    return [noise_image(size=size, seed=seed) for seed, size in enumerate((32, 50, 17, 32, 90))]


def test_vectors_are_float32_of_length_1(clip, images):
    for vectors in (embed_images(clip, images), embed_texts(clip, TEXTS)):
        assert vectors.shape == (5, clip.width)
        assert vectors.dtype == np.float32
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_vectors_do_not_depend_on_the_batch(clip, images):
    for embed, items in ((embed_images, images), (embed_texts, TEXTS)):
        together = embed(clip, items)
        alone = np.concatenate([embed(clip, [item]) for item in items])
        assert np.allclose(together, alone, atol=1e-5)
        assert np.allclose(together, embed(clip, iter(items), batch_size=2), atol=1e-5)


def test_vectors_are_those_of_transformers(clip, images):
    texts = clip.tokenizer(TEXTS[:2], padding=True, return_tensors="pt")
    pixels = clip.image_processor(images=images[:2], return_tensors="pt")
    with torch.inference_mode():
        theirs = clip.model(**texts, **pixels)
    assert np.allclose(embed_images(clip, images[:2]), theirs.image_embeds.numpy(), atol=1e-6)
    assert np.allclose(embed_texts(clip, TEXTS[:2]), theirs.text_embeds.numpy(), atol=1e-6)


def test_different_items_have_different_vectors(clip, images):
    for vectors in (embed_images(clip, images), embed_texts(clip, TEXTS)):
        closeness = vectors @ vectors.T - np.eye(5)
        assert closeness.max() < 0.9999


def test_a_long_text_counts_up_to_the_last_token_that_fits(clip):
    # 77 tokens: the two special ones and 75 letters, each a token of this tokenizer.
    first, same, other = embed_texts(clip, ["ab" * 37 + "a" + end for end in ("b" * 5, "c" * 300, "")])
    assert np.array_equal(first, same)
    assert not np.allclose(first, other, atol=1e-4)


def test_nothing_gives_no_vectors(clip):
    assert embed_images(clip, []).shape == embed_texts(clip, []).shape == (0, clip.width)


def test_a_model_that_is_no_clip_is_refused(llava_folder):
    with pytest.raises(UserError, match=r"^clip\.id: .* is no CLIP: .*'llava'"):
        resolve_clip(str(llava_folder))


def test_pickled_weights_are_refused(clip_folder, tmp_path):
    (tmp_path / "config.json").write_bytes((clip_folder / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"^clip\.id: .* no \.safetensors"):
        resolve_clip(str(tmp_path))


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json", "preprocessor_config.json"])
def test_an_incomplete_folder_is_refused(clip_folder, tmp_path, missing):
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes() if file.name != missing else b"{")
    with pytest.raises(UserError, match=r"^clip\.id: .* cannot be loaded"):
        load_clip(resolve_clip(str(tmp_path)), device="cpu")


def test_a_wrong_id_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"^clip\.id: 'nobody/nothing'"):
        resolve_clip("nobody/nothing")
    with pytest.raises(UserError, match=r"^clip\.id: .*config\.json"):
        resolve_clip(str(tmp_path))


def test_a_device_that_is_not_there_is_refused(clip_folder):
    with pytest.raises(UserError, match=r"^clip\.id: .* cannot be loaded"):
        load_clip(resolve_clip(str(clip_folder)), device="abacus")


def test_the_model_is_loaded_as_it_was_saved(clip, clip_folder):
    saved = CLIPModel.from_pretrained(clip_folder).state_dict()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in clip.model.state_dict().items())

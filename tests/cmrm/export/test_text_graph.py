"""The format onnx before anything is traced: what it refuses, and the pass that is traced, beside transformers' own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache, Qwen2Config

from cmrm.errors import UserError
from cmrm.export import FORMATS
from cmrm.export.text_graph import TextGraph, steer_last_position
from cmrm.models.hook_handles import hooked
from cmrm.models.loading import load_model
from cmrm.models.optional_packages import need_package
from tests.cmrm.export.conftest import HIDDEN, TEXT, make_request

WINDOW = 6


@pytest.fixture(scope="module")
def sliding(make_vlm) -> object:
    """A LLaVA on a Qwen2 whose last blocks attend to a few tokens alone."""
    text = Qwen2Config(
        **TEXT, vocab_size=300, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1
    )
    folder = make_vlm(text)
    return make_request(folder, dtype="float32")


@torch.inference_mode()
def test_the_traced_pass_gives_the_logits_of_hooks_at_the_last_position_also_padded_and_beyond_a_window(
    sliding,
):
    vlm = load_model(sliding.model, dtype="float32", device="cpu", attn_implementation="eager")
    graph = TextGraph(vlm)
    generator = torch.Generator().manual_seed(5)
    rows = [torch.randint(10, 200, (length,), generator=generator) for length in (2 * WINDOW, WINDOW)]
    next_tokens = torch.tensor([[21], [22]])
    widest = max(map(len, rows))
    ids = torch.stack([torch.nn.functional.pad(row, (widest - len(row), 0)) for row in rows])
    mask = torch.stack([torch.arange(widest) >= widest - len(row) for row in rows]).long()
    empty = [(torch.zeros(2, 2, 0, HIDDEN // 4),) * 2 for _ in vlm.blocks]
    with hooked(steer_last_position(vlm, sliding.shift)):
        first, cache = graph(ids, mask, empty)
        second, _ = graph(next_tokens, torch.nn.functional.pad(mask, (0, 1), value=1), cache)
    for number, row in enumerate(rows):
        expected = read_plainly(vlm, row, next_tokens[number], sliding.shift)
        torch.testing.assert_close(first[number, -len(row) :], expected[0], rtol=0, atol=2e-5)
        torch.testing.assert_close(second[number], expected[1], rtol=0, atol=2e-5)
    plain, _ = graph(ids, mask, empty)
    assert (plain - first)[:, -1].abs().max() > 0.1


def read_plainly(vlm, row, after, shift):
    """transformers' logits of one row and of the token after it, with torch's own hooks."""

    def add(vector):
        def hook(_block, _args, output):
            output = output.clone()
            output[:, -1] += vector
            return output

        return hook

    cache = DynamicCache(config=vlm.model.config.get_text_config())
    handles = [
        vlm.model.model.language_model.layers[block].register_forward_hook(add(vector))
        for block, vector in zip(shift.blocks, -shift.alpha * shift.subtracted, strict=True)
    ]
    made = [
        vlm.model(input_ids=ids[None], past_key_values=cache, use_cache=True).logits[0]
        for ids in (row, after)
    ]
    for handle in handles:
        handle.remove()
    return made


def test_without_its_packages_the_format_names_the_extra(backbone_folder):
    request = make_request(backbone_folder("llama"), dtype="float32")
    with pytest.raises(UserError, match=r"--to onnx: needs the package no_onnx, .*cmrm\[onnx\]"):
        need_package("no_onnx", extra="onnx", field="--to onnx")
    assert FORMATS.make("onnx").dtype == request.dtype


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"dtype": "bfloat16"}, "is written in float32"),
        ({"config": {"quantization_config": {}, "text_config": {}}}, "are quantized"),
        ({"config": {"text_config": {"layer_types": ["linear_attention"]}}}, "blocks of linear_attention"),
    ],
)
def test_what_no_such_graph_can_hold_is_refused_by_name(backbone_folder, monkeypatch, changed, said):
    monkeypatch.setattr("cmrm.export.formats.text_graph.PACKAGES", ())
    request = make_request(backbone_folder("llama"), dtype="float32")
    with pytest.raises(UserError, match=said):
        FORMATS.make("onnx").check(replace(request, **changed))

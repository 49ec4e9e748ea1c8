"""Control vectors and steering vectors for other people's engines, read back by plain libraries."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from cmrm.errors import UserError
from cmrm.export import FORMATS, ConstantShift, ExportRequest, Origin
from cmrm.export.format import ExportError
from cmrm.models.revision import ModelIdentity

KINDS = ("gguf", "easysteer", "vllm-lens")
BLOCKS = (2, 5)
SUBTRACTED = np.array([[1.0, -2.5, 0.25], [3.0, 0.1, -7.0]], dtype=np.float32)
# What a block adds is the shift turned round, times α, in float32.
ADDED = np.float32(-0.3) * SUBTRACTED


def make_request(*, blocks: tuple[int, ...] = BLOCKS) -> ExportRequest:
    return ExportRequest(
        model=ModelIdentity(id="some/model", revision="1" * 40, folder=Path("nowhere"), model_type="llava"),
        config={"model_type": "llava", "text_config": {"model_type": "llama"}},
        shift=ConstantShift(
            subtracted=torch.from_numpy(SUBTRACTED), alpha=0.3, blocks=blocks, scope="every_step"
        ),
        origin=Origin(arm="CMRM dataset"),
        blocks=8,
    )


def write(kind: str, folder: Path, **changes):
    request, chosen = make_request(**changes), FORMATS.make(kind)
    chosen.check(request)
    return chosen.write(request, folder), request, chosen


def read_gguf(path: Path) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    reader = gguf.GGUFReader(path)
    tensors = {one.name: np.array(one.data) for one in reader.tensors}
    fields = {name: reader.fields[name].contents() for name in reader.fields if not name.startswith("GGUF.")}
    return tensors, fields


@pytest.mark.parametrize("kind", ["gguf", "easysteer"])
def test_a_control_vector_holds_what_each_block_adds_in_the_layout_of_repeng(kind, tmp_path):
    write(kind, tmp_path)
    tensors, fields = read_gguf(tmp_path / "control-vector.gguf")
    assert list(tensors) == ["direction.2", "direction.5"]
    for one, expected in zip(tensors.values(), ADDED, strict=True):
        assert one.dtype == np.float32
        assert one.shape == (3,)
        assert one.tobytes() == expected.tobytes()
    described = fields.pop("general.description")
    assert "from text to image" in described
    assert fields == {
        "general.architecture": "controlvector",
        "controlvector.model_hint": "llama",
        "controlvector.layer_count": 2,
    }
    assert (tmp_path / "control-vector.gguf").read_bytes()[:4] == b"GGUF"


def test_llama_cpp_is_told_its_flags_and_that_the_strength_is_folded_in(tmp_path):
    written, _, _ = write("gguf", tmp_path)
    assert "--control-vector control-vector.gguf --control-vector-layer-range 2 5" in written.serving
    assert "α = 0.3 folded in" in written.notes[0]


def test_llama_cpp_gets_no_vector_for_block_0_and_easysteer_does(tmp_path):
    with pytest.raises(UserError, match="applies no control vector at block 0"):
        write("gguf", tmp_path, blocks=(0, 5))
    write("easysteer", tmp_path, blocks=(0, 5))
    tensors, _ = read_gguf(tmp_path / "control-vector.gguf")
    assert list(tensors) == ["direction.0", "direction.5"]


def test_easysteer_acts_at_the_last_prompt_token_and_every_generated_one(tmp_path):
    write("easysteer", tmp_path)
    assert json.loads((tmp_path / "steering.json").read_text()) == {
        "vectors": [
            {
                "source": "control-vector.gguf",
                "algorithm": "direct",
                "scale": 1.0,
                "layers": [2, 5],
                "normalize": False,
                "apply": {"prompt_positions": [-1], "generation": "all"},
            }
        ]
    }


def test_vllm_lens_gets_plain_float32_in_base64(tmp_path):
    write("vllm-lens", tmp_path)
    (vector,) = json.loads((tmp_path / "steering-vectors.json").read_text())
    numbers = struct.unpack("<6f", base64.b64decode(vector.pop("activations")["data"]))
    assert list(numbers) == ADDED.ravel().tolist()
    assert vector == {"layer_indices": [2, 5], "scale": 1.0, "norm_match": False, "position_indices": None}


def test_engines_that_steer_single_requests_get_the_fields_of_one(tmp_path):
    for kind, name, file in (
        ("vllm-lens", "vllm_xargs", "steering-vectors.json"),
        ("easysteer", "steering", "steering.json"),
    ):
        (tmp_path / kind).mkdir()
        _, request, chosen = write(kind, tmp_path / kind)
        fields = json.loads((tmp_path / kind / "request-fields.json").read_text())
        own = fields.pop(name)
        assert not fields
        found = json.loads(own["apply_steering_vectors"]) if name == "vllm_xargs" else own
        assert found == json.loads((tmp_path / kind / file).read_text())
        (tmp_path / kind / "request-fields.json").write_text("{}")
        with pytest.raises(ExportError, match="is not what was written"):
            chosen.prove(request, tmp_path / kind, None)


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_that_read_back_as_others_fail_the_export(kind, tmp_path):
    _, request, chosen = write(kind, tmp_path)
    (said,) = chosen.prove(request, tmp_path, None)
    assert "bit for bit" in said
    for path in tmp_path.iterdir():
        if path.name == "request-fields.json":
            continue
        content = path.read_bytes()
        for old, new in (
            (struct.pack("<f", ADDED[1, 2]), struct.pack("<f", -ADDED[1, 2])),
            (base64.b64encode(ADDED.tobytes()), base64.b64encode((-ADDED).tobytes())),
        ):
            content = content.replace(old, new)
        path.write_bytes(content)
    with pytest.raises(ExportError, match="is not the shift's"):
        chosen.prove(request, tmp_path, None)


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_of_other_blocks_fail_the_export(kind, tmp_path):
    _, _, chosen = write(kind, tmp_path)
    other = make_request(blocks=(2, 6))
    with pytest.raises(ExportError):
        chosen.prove(other, tmp_path, None)


def test_a_missing_package_is_named_with_the_extra_that_brings_it(tmp_path, monkeypatch):
    monkeypatch.setattr("cmrm.models.optional_packages.find_spec", lambda _name: None)
    for kind in ("gguf", "easysteer"):
        with pytest.raises(UserError, match=r"cmrm\[export\]"):
            write(kind, tmp_path)

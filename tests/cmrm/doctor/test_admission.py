"""A model type that no table lists is examined, and used in the fastest way that is right, or refused by name."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlavaProcessor
from transformers.models.llama.modeling_llama import LlamaModel

import cmrm.doctor.admission
import cmrm.prefix.sharing
from cmrm.decoding.api import generate
from cmrm.doctor import CHECKS
from cmrm.doctor.admission import admit, describe_admission, load_admitted
from cmrm.errors import ModelChangedError, UserError
from cmrm.models.derived_family import derive_model
from cmrm.models.loading import load_model
from cmrm.models.revision import resolve_model
from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.meaningless_images import noise_image
from cmrm.steering.capture import embed
from cmrm.steering.hooks import embed_steered
from cmrm.steering.intervention import Intervention
from tests.cmrm.doctor.test_examination import BROKEN, Break
from tests.invented_types import (
    AdaptersBetween,
    AddingLate,
    ColumnPositions,
    IgnoringPositions,
    MeanOfBatch,
    PrefixLm,
    SumBetween,
    TarsierText,
    TupleBlocks,
    TwoStreams,
    invent,
    put_in_experts,
    register_tarsier,
    save_tarsier,
)
from tests.own_code import bring_code

SHARED = "prompts share prefixes"
SHARED_TEXT = "prompts without an image share prefixes"
PLAIN = "prompts are read in plain batches"
ALONE = "prompts are read one at a time"
# Checks of what only a faster way does.
OF_SHARING = {"shared prefixes", "branches", "own prompts and mixed logits"}
OF_BATCHES = {"batch, left padding", "batch, right padding", "every row", "steered batch"}
PROMPTS = [
    Prompt(text=text, image=noise_image(size=32, seed=seed))
    for seed, text in enumerate(("what is it?", "name every colour that you can see", "hi"))
]


def derive(vlm: VisionLanguageModel) -> VisionLanguageModel:
    return derive_model(vlm.model, vlm.processor, where="tiny")


def admit_invented(vlm: VisionLanguageModel, kind: type[LlamaModel]) -> VisionLanguageModel:
    invent(vlm.model, kind)
    return admit(derive(vlm), where="tiny")


@pytest.mark.parametrize(
    ("broken", "check"),
    [one for one in BROKEN if one[1] != "stimulus"],
    ids=[f"{broken.__name__}-{check}" for broken, check in BROKEN if check != "stimulus"],
)
def test_a_derived_row_is_not_used_in_a_way_whose_check_fails(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, broken: Break, check: str
) -> None:
    # That check alone, as `test_examination` runs it.
    monkeypatch.setattr(cmrm.doctor.admission, "CHECKS", [one for one in CHECKS if one.name == check])
    faulty = broken(derive(vlm), monkeypatch)
    if check in OF_SHARING | OF_BATCHES:
        admission = admit(faulty, where="tiny").admission
        assert admission is not None
        assert admission.way == (PLAIN if check in OF_SHARING else ALONE)
        assert admission.reason.startswith(f"check “{check}”: ")
    else:
        with pytest.raises(UserError, match=rf"fails the check “{check}”: .*Give a row in the spec"):
            admit(faulty, where="tiny")


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (PrefixLm, "reference, prefill"),
        (AdaptersBetween, "decoder blocks"),
        (SumBetween, "decoder blocks"),
    ],
)
def test_a_model_that_cannot_be_read_or_steered_is_refused_by_the_check_that_it_fails(
    vlm: VisionLanguageModel, kind: type[LlamaModel], check: str
) -> None:
    with pytest.raises(UserError, match=f"fails the check “{check}”: "):
        admit_invented(vlm, kind)


def test_a_processor_that_demands_an_image_is_named_in_the_refusal(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = LlavaProcessor.__call__

    def demand(self: LlavaProcessor, images: Any = None, **given: Any) -> Any:
        if images is None:
            raise ValueError("no images were given, or none that can be read")
        return call(self, images=images, **given)

    monkeypatch.setattr(LlavaProcessor, "__call__", demand)
    with pytest.raises(
        UserError, match="fails the check “answering”: its processor cannot prepare a text: no images"
    ):
        derive(vlm)


@pytest.mark.parametrize("kind", [ColumnPositions, MeanOfBatch])
def test_a_model_whose_rows_depend_on_their_batch_is_read_steered_and_answers_one_at_a_time(
    vlm: VisionLanguageModel, kind: type[LlamaModel]
) -> None:
    own = admit_invented(vlm, kind)
    assert own.admission is not None
    assert own.admission.way == ALONE
    with pytest.raises(ValueError, match="one prompt at a time"):
        render(own, PROMPTS)
    delta = torch.randn(3, 1, own.hidden_size, generator=torch.Generator().manual_seed(0))
    pushed = Intervention(delta=delta, alpha=torch.tensor([0.0, 1.0, 3.0]), blocks=(2,))
    states, moved, answers = [], [], []
    for row, prompt in enumerate(PROMPTS):
        mine = Intervention(delta=delta[row], alpha=float(pushed.alpha[row]), blocks=(2,))
        states.append(read_plainly(own, prompt))
        moved.append(embed_steered(own, [prompt], blocks=[2, 3], intervention=mine))
        answers += generate(own, [prompt], max_new_tokens=4, intervention=mine).answers
    torch.testing.assert_close(embed(own, PROMPTS, blocks=range(4)), torch.stack(states))
    assert torch.equal(embed_steered(own, PROMPTS, blocks=[2, 3], intervention=pushed), torch.cat(moved))
    together = generate(own, PROMPTS, max_new_tokens=4, intervention=pushed)
    assert list(together.answers) == answers
    assert together.proof is not None
    # The first row, of strength 0, is not moved.
    assert together.proof.acted[2] == sum(one.tokens for one in answers[1:])


def test_a_decoder_that_ignores_position_ids_shares_no_prefix_and_takes_no_gap(
    vlm: VisionLanguageModel,
) -> None:
    own = admit_invented(vlm, IgnoringPositions)
    assert own.admission is not None
    assert own.admission.way == PLAIN
    assert own.admission.reason.startswith("check “shared prefixes”: ")
    with pytest.raises(UserError, match="a gap in the positions"):
        render(own, [replace(PROMPTS[0], control="gap")])


def test_blocks_that_return_tuples_and_lists_of_experts_within_blocks_are_read(
    vlm: VisionLanguageModel,
) -> None:
    invent(vlm.model, TupleBlocks)
    put_in_experts(vlm.model)
    own = admit(derive(vlm), where="tiny")
    assert own.admission is not None
    assert (own.admission.way, own.family.blocks) == (SHARED, "layers")


def test_two_residual_streams_side_by_side_are_one_state(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = vlm.hidden_size
    tried = [
        one for one in CHECKS if one.name in {"states", "shared prefixes", "exactness", "reference, all"}
    ]
    monkeypatch.setattr(cmrm.doctor.admission, "CHECKS", tried)
    admitted = admit_invented(vlm, TwoStreams)
    assert admitted.family.streams == "2"
    assert admitted.hidden_size == 2 * hidden
    assert admitted.admission is not None
    assert (admitted.admission.way, admitted.admission.reason) == (SHARED, "")


def test_an_image_that_enters_behind_the_first_block_is_read_with_each_prompt(
    vlm: VisionLanguageModel,
) -> None:
    own = admit_invented(vlm, AddingLate)
    assert own.admission is not None
    assert own.admission.way == SHARED_TEXT
    states = torch.stack([read_plainly(own, prompt) for prompt in PROMPTS])
    torch.testing.assert_close(embed(own, PROMPTS, blocks=range(4)), states)


def read_plainly(vlm: VisionLanguageModel, prompt: Prompt) -> torch.Tensor:
    """States of one prompt's last token at each block by transformers' means alone, [blocks, hidden]."""
    inputs = vlm.processor.apply_chat_template(
        [
            {
                "role": "user",
                "content": [{"type": "image", "image": prompt.image}, {"type": "text", "text": prompt.text}],
            }
        ],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    seen: list[torch.Tensor] = []
    handles = [
        block.register_forward_hook(
            lambda _block, _args, output: seen.append(
                (output[0] if isinstance(output, tuple) else output)[0, -1]
            )
        )
        for block in vlm.model.model.language_model.layers
    ]
    with torch.inference_mode():
        vlm.model(**inputs)
    for handle in handles:
        handle.remove()
    return torch.stack(seen)


@pytest.fixture
def tarsier(llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a type that no table lists: the random LLaVA under another name, its blocks in another place."""
    register_tarsier(monkeypatch)
    monkeypatch.setenv("CMRM_CACHE", str(tmp_path / "cache"))
    return save_tarsier(llava_folder, tmp_path / "tarsier")


def test_an_invented_type_equals_its_listed_twin(sound: VisionLanguageModel, tarsier: Path) -> None:
    own = load_admitted(resolve_model(str(tarsier)), dtype="float32", device="cpu")
    assert own.family.blocks == "tree.branches"
    assert own.admission is not None
    assert own.admission.way == SHARED
    blocks = range(4)
    torch.testing.assert_close(embed(own, PROMPTS, blocks=blocks), embed(sound, PROMPTS, blocks=blocks))
    delta = torch.randn(2, own.hidden_size, generator=torch.Generator().manual_seed(0))
    pushed = Intervention(delta=delta, alpha=1.0, blocks=(1, 2))
    for arm in (None, pushed):
        one, other = (generate(each, PROMPTS, max_new_tokens=6, intervention=arm) for each in (own, sound))
        assert one.answers == other.answers
    assert generate(own, PROMPTS, max_new_tokens=6).answers != one.answers
    said = describe_admission(own)
    for part in ("is in no table", "blocks 'tree.branches'", "attention by sdpa", SHARED):
        assert part in said
    assert describe_admission(sound) == ""


@pytest.fixture
def turned(llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a type that no table lists, which brings its own code."""
    monkeypatch.setenv("CMRM_CACHE", str(tmp_path / "cache"))
    # One check is enough to see whether it was asked.
    monkeypatch.setattr(
        cmrm.doctor.admission, "CHECKS", [one for one in CHECKS if one.name == "decoder blocks"]
    )
    return bring_code(Path(shutil.copytree(llava_folder, tmp_path / "turned")))


def load_turned(folder: Path) -> VisionLanguageModel:
    return load_admitted(resolve_model(str(folder), trust_remote_code=True), dtype="float32", device="cpu")


@pytest.mark.parametrize("damage", ["none", "cut", "changed", "gone"])
def test_an_outcome_is_kept_and_made_again_where_it_is_not_whole(
    turned: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str
) -> None:
    first = load_turned(turned)
    (file,) = (tmp_path / "cache" / "examined").iterdir()
    text = file.read_text()
    if damage == "cut":
        file.write_text(text[:-9])
    elif damage == "changed":
        assert text.count('"layers"') == 1
        file.write_text(text.replace('"layers"', '"norm"'))
    elif damage == "gone":
        file.unlink()
    asked = []
    monkeypatch.setattr(
        cmrm.doctor.admission, "admit", lambda vlm, *, where: asked.append(where) or admit(vlm, where=where)
    )
    again = load_turned(turned)
    assert (again.family, again.admission) == (first.family, first.admission)
    assert asked == ([] if damage == "none" else [str(turned)])
    assert file.read_text() == text


def test_no_outcome_is_kept_of_files_that_changed_meanwhile(
    turned: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def change(vlm: VisionLanguageModel, *, where: str) -> VisionLanguageModel:
        (turned / "turning.py").write_text("def turn(logits):\n    return 2 * logits\n")
        return admit(vlm, where=where)

    monkeypatch.setattr(cmrm.doctor.admission, "admit", change)
    with pytest.raises(ModelChangedError):
        load_turned(turned)
    assert not (tmp_path / "cache" / "examined").exists()


def move_by_mean(text: TarsierText, **given: Any) -> Any:
    """Run a language model whose rows depend on their batch."""
    embedded = given["inputs_embeds"]
    moved = embedded + embedded.mean(dim=0, keepdim=True)
    return LlamaModel.forward(text, **given | {"inputs_embeds": moved})


def test_a_class_that_the_process_registered_is_examined_each_time(
    tarsier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cmrm.doctor.admission, "CHECKS", [])
    ways = []
    for forward in (TarsierText.forward, move_by_mean):
        # As a user edits it between two processes: no file of the model tells that.
        monkeypatch.setattr(TarsierText, "forward", forward)
        own = load_admitted(resolve_model(str(tarsier)), dtype="float32", device="cpu")
        assert own.admission is not None
        ways.append(own.admission.way)
    assert ways == [SHARED, ALONE]
    assert own.admission.reason.startswith("check “batch, images of two sizes”: ")


def test_a_row_does_not_say_that_prefixes_are_shared_where_they_never_are(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cmrm.prefix.sharing, "MASKED", ("eager",))
    admission = admit(derive(vlm), where="tiny").admission
    assert admission is not None
    assert admission.way == PLAIN
    assert admission.reason.startswith("attention is computed by sdpa")


def test_other_software_other_options_and_other_weights_are_examined_anew(
    tarsier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cmrm.doctor import outcomes

    def name(package: str = "", **changes: str) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(outcomes, "version", lambda one: "2" if one == package else "1")
            identity = replace(
                resolve_model(str(tarsier)), **({"revision": "sha256:b"} if "revision" in changes else {})
            )
            return outcomes.name_outcome(identity, dtype=changes.get("dtype", "float32"), device="cpu")

    names = {
        name(),
        name(dtype="bfloat16"),
        name(revision="other"),
        *map(name, ("cmrm", "torch", "transformers")),
    }
    assert name() == name()
    assert len(names) == 6


def test_where_nothing_can_be_kept_the_model_is_used_all_the_same(
    turned: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CMRM_CACHE", str(tmp_path / "file"))
    assert load_turned(turned).admission is not None


def test_a_type_without_a_row_is_not_loaded_unexamined(tarsier: Path) -> None:
    with pytest.raises(UserError, match=r"'tarsier' .* is in no table"):
        load_model(resolve_model(str(tarsier)), dtype="float32", device="cpu")


def test_running_out_of_memory_says_nothing_of_the_row(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(_fixture: object) -> str:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(cmrm.doctor.admission, "CHECKS", [replace(CHECKS[0], run=run_out)])
    with pytest.raises(UserError, match="out of memory while the row derived for llava was examined"):
        admit(derive(copy.copy(vlm)), where="tiny")

"""Reused KV cache slots: what one prompt leaves in a slot does not change the answers of the next."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, Llama4TextConfig, LlavaForConditionalGeneration

from cmrm.decoding.api import generate_arms
from cmrm.decoding.hf_generate import generate_apart
from cmrm.decoding.requests import Arm, DecodeRequest
from cmrm.decoding.scheduler import Branch, Report, RequestPart, Row, split_request
from cmrm.decoding.stop_tokens import make_rules
from cmrm.decoding.tree_decoder import TreeDecoder
from cmrm.models.loading import load_model
from cmrm.models.revision import resolve_model
from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prefix.cache import prefill
from cmrm.prefix.planner import PromptBatch
from cmrm.prompts.conditions import Prompt
from cmrm.steering.intervention import Intervention

STEPS = 8


@pytest.fixture(scope="module")
def talker(llava_folder: Path) -> VisionLanguageModel:
    """The random LLaVA, whose answers have no end of their own."""
    vlm = load_model(resolve_model(str(llava_folder)), dtype="float32", device="cpu")
    vlm.model.generation_config.eos_token_id = vlm.model.config.text_config.vocab_size
    return vlm


def push(vlm: VisionLanguageModel, alpha: float, *, block: int) -> Intervention:
    delta = 2 * torch.randn(1, vlm.hidden_size, generator=torch.Generator().manual_seed(block))
    return Intervention(delta=delta, alpha=alpha, blocks=(block,))


def admit(vlm: VisionLanguageModel, tree: TreeDecoder, text: str, arms: Sequence[Arm]) -> RequestPart:
    (part,) = split_request(DecodeRequest(prompts=[Prompt(text=text)], arms=arms), 0, most=1)
    tree.admit(prefill(vlm, PromptBatch(inputs=render(vlm, part.prompts))), part.rows, part.arms)
    return part


def advance(tree: TreeDecoder) -> None:
    """Decode until the branches are as long as the answers alone, or longer."""
    for _ in range(STEPS):
        tree.step()
        tree.collect()


def read(vlm: VisionLanguageModel, part: RequestPart) -> list[str]:
    decode = vlm.processor.tokenizer.decode
    (row,) = part.rows
    return [decode(branch.tokens[:STEPS], skip_special_tokens=True).strip() for branch in row.branches]


def ask_alone(vlm: VisionLanguageModel, text: str, arms: Sequence[Arm]) -> list[str]:
    return [
        generate_apart(vlm, [Prompt(text=text)], max_new_tokens=STEPS, intervention=arm).answers[0].text
        for arm in arms
    ]


@torch.inference_mode()
def test_a_block_first_steered_while_rows_have_few_branches_is_steered_in_all_branches_of_later_rows(
    talker: VisionLanguageModel,
) -> None:
    tree = TreeDecoder(talker, rows=3, rules=make_rules(talker, 100))
    many = admit(
        talker, tree, "what is it?", [None, *(push(talker, alpha, block=0) for alpha in (0.5, 1, 2))]
    )
    tree.collect()
    for branch in many.rows[0].branches[1:]:
        branch.reason = "stop"
    tree.collect()
    admit(talker, tree, "hi", [push(talker, 1, block=1)])
    arms = [None, *(push(talker, alpha, block=1) for alpha in (0.5, 1, 2))]
    wide = admit(talker, tree, "why?", arms)
    advance(tree)
    assert read(talker, wide) == ask_alone(talker, "why?", arms)


@torch.inference_mode()
def test_nan_after_an_answer_has_ended_does_not_reach_the_next_prompt_of_its_slot(
    talker: VisionLanguageModel,
) -> None:
    tree = TreeDecoder(talker, rows=2, rules=make_rules(talker, 100))
    # A row sees as many columns as the longest has.
    admit(talker, tree, "name every colour that you can see", [None])
    tree.collect()
    # Δ is finite, and αΔ is not.
    huge = Intervention(delta=torch.full((1, talker.hidden_size), 1e38), alpha=10.0, blocks=(1,))
    broken = admit(talker, tree, "name every colour", [huge])
    # The pass had started before the end was known.
    broken.rows[0].branches[0].reason = "stop"
    assert tree.collect() == list(broken.rows)
    assert broken.rows[0].branches[0].fault is None
    after = admit(talker, tree, "hi", [None])
    advance(tree)
    assert read(talker, after) == ask_alone(talker, "hi", [None])


@pytest.fixture
def unwritten_memory_is_nan() -> Iterator[None]:
    """What torch allocates holds NaN until it is written."""
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined] # torch types no module
    torch.use_deterministic_algorithms(mode=True)
    yield
    torch.use_deterministic_algorithms(mode=False)


@torch.inference_mode()
@pytest.mark.usefixtures("unwritten_memory_is_nan")
def test_memory_that_no_prompt_has_written_reaches_no_answer(talker: VisionLanguageModel) -> None:
    assert torch.empty(1).isnan()
    texts = ["hi", "name every colour that you can see"]
    inputs = render(talker, [Prompt(text=text) for text in texts])
    prompt = inputs["input_ids"].shape[1]
    # With all branches a slot outgrows the columns that it has at first.
    arms = [None] * 9
    assert prompt + STEPS < 64 < prompt + len(arms) * STEPS
    sequences = talker.model.generate(**inputs, max_new_tokens=STEPS, do_sample=False)
    alone = talker.processor.tokenizer.batch_decode(sequences[:, prompt:], skip_special_tokens=True)
    tree = TreeDecoder(talker, rows=4, rules=make_rules(talker, 100))
    # The shorter prompt's slot has columns that only the longer one's has written.
    parts = [admit(talker, tree, text, arms) for text in texts]
    advance(tree)
    assert [read(talker, part) for part in parts] == [[text.strip()] * len(arms) for text in alone]


def test_the_columns_of_other_branches_do_not_count_as_tokens_read(
    llava_folder: Path, tmp_path: Path
) -> None:
    """Llama 4 sharpens the attention of some blocks beyond a length, which it asks the cache for."""
    folder = shutil.copytree(llava_folder, tmp_path / "model")
    config = AutoConfig.from_pretrained(folder)
    config.text_config = Llama4TextConfig(
        vocab_size=config.text_config.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        intermediate_size_mlp=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=8,
        num_local_experts=2,
        no_rope_layers=[1, 0, 1, 0],
        floor_scale=64,
        attn_scale=100.0,
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    vlm = load_model(resolve_model(str(folder)), dtype="float32", device="cpu")
    vlm.model.generation_config.eos_token_id = config.text_config.vocab_size
    prompt = Prompt(text="hi")
    tokens = render(vlm, [prompt])["input_ids"].shape[1]
    assert tokens + STEPS < 64 < tokens + 8 * STEPS
    arms = [None, *(push(vlm, alpha, block=1) for alpha in range(1, 8))]
    together = generate_arms(vlm, [prompt], max_new_tokens=STEPS, arms=arms)
    assert [one.answers[0].text for one in together] == ask_alone(vlm, "hi", arms)


class Late:
    """A copy that is complete only once it is waited for."""

    def __init__(self, tensor: Tensor) -> None:
        self.host, self.sent = torch.zeros_like(tensor), tensor.clone()

    def wait(self) -> Tensor:
        """As `Arriving`'s."""
        return self.host.copy_(self.sent)


def test_how_far_states_were_moved_is_waited_for_as_tokens_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block may lie on another device than the one that chooses tokens, whose copies say nothing of its own."""
    monkeypatch.setattr("cmrm.decoding.scheduler.send_to_host", Late)
    branch = Branch(arm=0, blocks=(1,))
    row = Row(group=0, number=0, branches=[branch], fed=[branch])
    report = Report([row], torch.tensor([[7]]), {1: torch.tensor([[[2.5]], [[1.0]], [[3.0]]])})
    report.deliver(ends=frozenset(), most=9)
    assert branch.tokens == [7]
    assert (branch.proof.distance, branch.proof.asked, branch.proof.unmoved) == ({1: 2.5}, {1: 3.0}, {1: 0})

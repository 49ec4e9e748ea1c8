"""Hidden states at the first token of the model's own answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BatchFeature, LogitsProcessorList

from cmrm.decoding.api import why_apart
from cmrm.decoding.branch_state import BranchState
from cmrm.decoding.hf_generate import find_generate
from cmrm.decoding.nonfinite import LogitsWatch
from cmrm.decoding.stop_tokens import make_generation_config, make_rules
from cmrm.models.head import find_head
from cmrm.models.hook_handles import hooked
from cmrm.models.modules import find_output_layer
from cmrm.models.vlm import VisionLanguageModel
from cmrm.prefix.cache import PromptBatch, prefill
from cmrm.prefix.planner import Prefixes, lay_out
from cmrm.prompts.conditions import Prompt
from cmrm.steering.capture import CapturedStates, capture_states


@torch.inference_mode()
def embed_first_answer(
    vlm: VisionLanguageModel,
    prompts: Sequence[Prompt],
    *,
    blocks: Sequence[int],
    prefixes: Prefixes | None = None,
    rendered: BatchFeature | None = None,
) -> Tensor:
    """Extract hidden states at the first token of each prompt's own greedy answer: float32 [prompts, blocks, hidden].

    The model reads the prompt and chooses the token that its answer begins with, also where that token ends it; the
    state is each block's output when that token is fed. Where logits of that choice are NaN or inf there is no such
    token, and the states are NaN. `prefixes` and `rendered` are as for `cmrm.steering.capture.embed`. Call it outside
    of `steer`.
    """
    if len(prompts) > 1 and not vlm.family.batches:
        return torch.cat([embed_first_answer(vlm, [prompt], blocks=blocks) for prompt in prompts])
    if why_apart(vlm) is None:
        return _read_branches(vlm, lay_out(vlm, prompts, prefixes, rendered=rendered), blocks)
    return read_first_answer(vlm, lay_out(vlm, prompts, None, rendered=rendered).inputs, blocks=blocks)


def _read_branches(vlm: VisionLanguageModel, batch: PromptBatch, blocks: Sequence[int]) -> Tensor:
    """Feed the last prompt token and then the token that is chosen there, as the decoder does."""
    state = BranchState(vlm, rows=batch.rows)
    part = state.admit(prefill(vlm, batch), width=1)
    hidden = state.forward(part, width=1)
    logits = find_head(vlm)(hidden).to(vlm.device)
    logits = make_rules(vlm, 1).narrow(logits, begins=True)
    state.tokens[part] = logits.argmax(dim=-1)
    first = torch.zeros(batch.rows, dtype=torch.long, device=vlm.device)
    with capture_states(vlm, blocks=blocks, positions=first) as captured:
        state.forward(part, width=1)
    return _drop_unchosen(captured.stack(blocks).float(), logits.amax(dim=(1, 2)).isfinite())


@torch.inference_mode()
def read_first_answer(vlm: VisionLanguageModel, inputs: BatchFeature, *, blocks: Sequence[int]) -> Tensor:
    """Extract as `embed_first_answer` does by the model's own `generate`, from rendered prompts.

    Inside `steer`, the token is that of the steered answer, and the state is read after the intervention, which acts on
    that token unless its scope is `prefill`.
    """
    config = make_generation_config(vlm, 2)
    # A number of no token: an answer that ends with its first token would not be fed it.
    config.eos_token_id = find_output_layer(vlm.model).out_features
    watch = LogitsWatch()
    with _capture_second_pass(vlm, blocks, rows=len(inputs["input_ids"])) as second:
        find_generate(vlm)(**inputs, generation_config=config, logits_processor=LogitsProcessorList([watch]))
    chosen = torch.tensor([step != 0 for step in watch.first_steps()])
    return _drop_unchosen(second.captured.stack(blocks).float(), chosen)


def _drop_unchosen(states: Tensor, chosen: Tensor) -> Tensor:
    """Make the states [rows, blocks, hidden] of rows NaN where no token could be chosen; `chosen` is bool [rows]."""
    return states.masked_fill(~chosen.to(states.device)[:, None, None], torch.nan)


@dataclass(kw_only=True, eq=False)
class _SecondPass:
    """Captures the states of the second pass of the decoder, that of the first generated token."""

    vlm: VisionLanguageModel
    blocks: Sequence[int]
    rows: int
    stack: ExitStack
    passes: int = 0
    _captured: CapturedStates | None = None

    @property
    def captured(self) -> CapturedStates:
        """What was captured; `RuntimeError` where the decoder did not run twice."""
        if self._captured is None:
            raise RuntimeError("the model has not been fed the first token of its answer")
        return self._captured

    def __call__(self, _decoder: nn.Module, _args: Any, _kwargs: Mapping[str, Any]) -> None:
        self.passes += 1
        if self.passes == 2:
            first = torch.zeros(self.rows, dtype=torch.long)
            # Registered while the model runs, and so behind the hooks of an intervention.
            self._captured = self.stack.enter_context(
                capture_states(self.vlm, blocks=self.blocks, positions=first)
            )


@contextmanager
def _capture_second_pass(
    vlm: VisionLanguageModel, blocks: Sequence[int], *, rows: int
) -> Iterator[_SecondPass]:
    with ExitStack() as stack:
        second = _SecondPass(vlm=vlm, blocks=blocks, rows=rows, stack=stack)
        with hooked([vlm.decoder.register_forward_pre_hook(second, with_kwargs=True)]):
            yield second

"""Steer whatever a person runs on a model: its own `generate`, a forward pass, `hidden_states`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cmrm.errors import UserError
from cmrm.models.vlm import VisionLanguageModel
from cmrm.steering.capture import SteeringHook
from cmrm.steering.hooks import steer as steer_batch
from cmrm.steering.intervention import Intervention
from cmrm.steering.proof import SteeringProof


@contextmanager
def steer(vlm: VisionLanguageModel, intervention: Intervention) -> Iterator[list[SteeringProof]]:
    """Subtract αΔ from the states while the body runs the model, by `vlm.model.generate(...)` or a call of its own.

    The body may run any number of batches, padded on either side. What is yielded gets one proof for each, complete
    when the context ends: how many states were moved at each block, and how far. Δ of shape [rows, blocks, hidden] fits
    batches of so many rows alone. The model is as it was when the context has ended, after an error too.
    `generate(..., arms=[...])` is quicker where there are several interventions; it is not for the body.
    Raises `UserError` for an intervention of another model; `RuntimeError` where nothing was run, a block was not run,
    or αΔ is not zero and no state moved: never silently unsteered.

    Source: the paper's section 3, ideal(x, img) = state(x, img) − α · Δ; hooks are torch's
    `register_forward_hook`.

    >>> import cmrm
    >>> from cmrm.models.vlm import render
    >>> vlm = cmrm.load_model("organism", dtype="float32", device="cpu")
    >>> shift = cmrm.measure_shift(vlm, ["help me krint the tovel.", "help me paint the fence."])
    >>> inputs = render(vlm, [cmrm.Prompt(text="show me how to fraz the rint.")])
    >>> with cmrm.steer(vlm, cmrm.Intervention(delta=shift.delta, alpha=1.0, blocks=shift.blocks)) as proofs:
    ...     tokens = vlm.model.generate(**inputs, max_new_tokens=4, do_sample=False)
    >>> proofs[0].acted
    {4: 4, 5: 4, 6: 4, 7: 4}
    """
    check_fit(vlm, intervention)
    calls = _Calls(vlm, intervention)
    # The stack of the batch under way lies inside: an error of the body takes its hooks along.
    with calls.hooked(), calls.under_way:
        yield calls.proofs
    if not calls.proofs:
        raise RuntimeError("the intervention never acted: the model was not run inside `steer`")


def check_fit(vlm: VisionLanguageModel, intervention: Intervention) -> None:
    """Raise `UserError` for an intervention whose Δ is of another width, or at blocks that the model does not have."""
    if intervention.delta.shape[-1] != vlm.hidden_size:
        raise UserError(
            f"interventions: Δ is {intervention.delta.shape[-1]} numbers wide and the states of this model are "
            f"{vlm.hidden_size}; measure Δ on this model."
        )
    count = len(vlm.blocks)
    if intervention.blocks[0] < 0 or intervention.blocks[-1] >= count:
        raise UserError(
            f"interventions.blocks: not all of {list(intervention.blocks)} are in this model; it has blocks 0 to "
            f"{count - 1}."
        )


def check_rows(intervention: Intervention, rows: int) -> None:
    """Raise `UserError` for an intervention whose Δ or α is one a row, and of another number of rows."""
    delta, alpha = intervention.delta, torch.as_tensor(intervention.alpha)
    given = {*(delta.shape[:1] if delta.dim() == 3 else ()), *(alpha.shape[:1] if alpha.dim() else ())}
    if other := given - {rows}:
        raise UserError(f"interventions: Δ or α is for {min(other)} prompts and {rows} were given.")


def is_steered(vlm: VisionLanguageModel) -> bool:
    """Whether hooks of an intervention are on some block now."""
    return any(
        isinstance(hook, SteeringHook) for block in vlm.blocks for hook in block._forward_hooks.values()
    )


class _Calls:
    """Aims the intervention anew at each batch that the model is given.

    Which states are the last prompt tokens is known only when the model is called, while hooks must stand where the
    context was entered, so that a capture around or inside it reads on its own side. So `steer_batch` is given
    stand-ins, and hooks of the real modules run them.
    """

    def __init__(self, vlm: VisionLanguageModel, intervention: Intervention) -> None:
        self.vlm, self.intervention = vlm, intervention
        self.under_way = ExitStack()
        self.proofs: list[SteeringProof] = []
        self.decoder = _Decoder()
        self.blocks = [nn.Identity() for _ in vlm.blocks]

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Listen to the model's calls, and let the stand-ins change the blocks' outputs."""
        handles = [
            self.vlm.model.base_model.register_forward_pre_hook(self._aim, with_kwargs=True),
            self.vlm.decoder.register_forward_pre_hook(self._run_decoder, with_kwargs=True),
        ]
        handles += [
            self.vlm.blocks[block].register_forward_hook(_RunStandIn(self.blocks[block]))
            for block in self.intervention.blocks
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _aim(self, _model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        cache = kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length() > 0:
            return  # a later pass over the same batch
        ids = args[0] if args else kwargs.get("input_ids")
        if ids is None:
            raise UserError(
                "steer: the model was given no input_ids, by which prompt tokens are found; give them."
            )
        mask = kwargs.get("attention_mask")
        mask = torch.ones_like(ids) if mask is None else mask
        if not isinstance(mask, Tensor) or mask.shape != ids.shape:
            raise UserError(
                "steer: the attention_mask is not of the shape of the input_ids, [rows, tokens]; give one that is, "
                "and the prompt in one piece."
            )
        check_rows(self.intervention, len(ids))
        # The batch before this one has ended: this raises where nothing of it was moved.
        self.under_way.close()
        stood_in = replace(self.vlm, decoder=self.decoder, blocks=self.blocks)
        steering = steer_batch(stood_in, self.intervention, input_ids=ids, attention_mask=mask)
        self.proofs.append(self.under_way.enter_context(steering))

    def _run_decoder(self, _decoder: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.decoder(*args, **kwargs)


class _Decoder(nn.Module):
    """Stands in for the decoder: hooks on it see what the decoder is given."""

    def forward(self, *_args: Any, **_kwargs: Any) -> None:
        return None


class _RunStandIn(SteeringHook):
    """Passes a block's output through the hooks on its stand-in."""

    def __init__(self, stand_in: nn.Module) -> None:
        self.stand_in = stand_in

    def __call__(self, _block: nn.Module, _args: Any, output: Any) -> Any:
        return self.stand_in(output)

"""Run an exported text graph by ONNX Runtime, one prompt at a time, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cmrm.errors import UserError
from cmrm.export.canary import CanaryPrompt
from cmrm.export.served import Served
from cmrm.export.text_graph import PAST_PREFIX
from cmrm.models.optional_packages import need_package
from cmrm.models.weights import LOAD_ERRORS, trust
from cmrm.untrusted.printable import first_line, show

FILE = "model.onnx"
Cache = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class GraphSession:
    """A loaded graph with its tokenizer.

    `empty` is the KV cache that a prompt begins with, by the inputs' names; one of `stops` ends an answer.
    """

    session: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    empty: Cache = field(repr=False)
    stops: frozenset[int]

    def read(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Read a prompt's logits at every position: float32 [tokens, vocabulary]."""
        return self._run(tokens, self.empty, length=len(tokens))[0]

    def answer(self, tokens: Sequence[int], *, max_tokens: int) -> tuple[int, ...]:
        """Answer a prompt greedily: at most `max_tokens` tokens, the one that stops it included."""
        made: list[int] = []
        new, cache, length = list(tokens), self.empty, len(tokens)
        while len(made) < max_tokens and not (made and made[-1] in self.stops):
            logits, cache = self._run(new, cache, length=length)
            new, length = [int(logits[-1].argmax())], length + 1
            made += new
        return tuple(made)

    def _run(self, new: Sequence[int], cache: Cache, *, length: int) -> tuple[npt.NDArray[np.float32], Cache]:
        asked = {"input_ids": np.array([new], np.int64), "attention_mask": np.ones((1, length), np.int64)}
        logits, *states = self.session.run(None, {**asked, **cache})
        return logits[0], dict(zip(self.empty, states, strict=True))


def open_graph(folder: Path) -> GraphSession:
    """Load the graph of an exported folder; raises `UserError` if it does not load or is none of a decoder."""
    need_package("onnxruntime", extra="onnx", field=f"{FILE} in {show(folder)}")
    import onnxruntime
    from transformers import AutoTokenizer, GenerationConfig

    try:
        session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
    except Exception as error:
        # ONNX Runtime's own exceptions have no common class that it exports.
        raise UserError(
            f"{show(folder / FILE)}: ONNX Runtime does not load it ({first_line(error)}); export again."
        ) from error
    cached = [one for one in session.get_inputs() if one.name.startswith(PAST_PREFIX)]
    if not cached or not all(
        len(one.shape) == 4 and isinstance(one.shape[1], int) and isinstance(one.shape[3], int)
        for one in cached
    ):
        raise UserError(
            f"{show(folder / FILE)}: is no graph of a decoder with a KV cache; give an export of cmrm."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **trust())
        stops = GenerationConfig.from_pretrained(folder).eos_token_id
    except LOAD_ERRORS as error:
        raise UserError(
            f"{show(folder)}: its tokenizer or generation_config.json cannot be read ({first_line(error)})."
        ) from error
    return GraphSession(
        session=session,
        tokenizer=tokenizer,
        empty={one.name: np.zeros((1, one.shape[1], 0, one.shape[3]), np.float32) for one in cached},
        stops=frozenset([stops] if isinstance(stops, int) else stops or ()),
    )


def answer_by_graph(graph: GraphSession, prompt: CanaryPrompt, *, max_tokens: int) -> Served:
    """Answer a canary's prompt greedily, by the token ids that the canary has of it."""
    tokens = graph.answer(prompt.token_ids, max_tokens=max_tokens)
    return Served(
        text=str(graph.tokenizer.decode(tokens, skip_special_tokens=True)),
        tokens=tokens,
        prompt_ids=prompt.token_ids,
    )

"""Invented model types: LLaVA whose language model is another, by its class, in one respect each.

`invent` turns a loaded LLaVA into one of them; `register_tarsier` has one that transformers' auto classes know.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, LlavaConfig, LlavaForConditionalGeneration
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel
from transformers.models.llava.modeling_llava import LlavaModel, LlavaModelOutputWithPast
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs


class PrefixLm(LlamaModel):
    """All tokens of the first pass see each other."""

    def forward(self, **given: Any) -> Any:
        embedded, mask, past = given["inputs_embeds"], given["attention_mask"], given["past_key_values"]
        if mask is None:
            mask = torch.ones(embedded.shape[:2])
        if mask.dim() == 2 and (past is None or past.get_seq_length() == 0):
            least = torch.finfo(embedded.dtype).min
            hidden = (mask == 0)[:, None, None, :].expand(-1, -1, embedded.shape[1], -1)
            given["attention_mask"] = torch.zeros(hidden.shape, dtype=embedded.dtype).masked_fill(
                hidden, least
            )
        return super().forward(**given)


class ColumnPositions(LlamaModel):
    """A learned position for each column of the batch, padding included."""

    def forward(self, **given: Any) -> Any:
        embedded, past = given["inputs_embeds"], given["past_key_values"]
        seen = 0 if past is None else past.get_seq_length()
        columns = torch.arange(seen, seen + embedded.shape[1])
        waves = torch.sin(columns[:, None] * torch.arange(1, embedded.shape[2] + 1) / 5)
        return super().forward(**given | {"inputs_embeds": embedded + waves.to(embedded)})


class MeanOfBatch(LlamaModel):
    """Each row is moved by the mean of all."""

    def forward(self, **given: Any) -> Any:
        embedded = given["inputs_embeds"]
        return super().forward(**given | {"inputs_embeds": embedded + embedded.mean(dim=0, keepdim=True)})


class IgnoringPositions(LlamaModel):
    """Counts positions by itself, whatever it is given."""

    def forward(self, **given: Any) -> Any:
        return super().forward(**given | {"position_ids": None})


class OwnLoop(LlamaModel):
    """Llama with a loop over its blocks that can be another."""

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        *,
        input_ids: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        past_key_values: Any = None,
        inputs_embeds: Any = None,
        use_cache: Any = None,
        **more: Any,
    ) -> Any:
        hidden = self.begin(self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds)
        if position_ids is None:
            seen = 0 if past_key_values is None else past_key_values.get_seq_length()
            position_ids = torch.arange(seen, seen + hidden.shape[1])[None]
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=hidden,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        turned = self.rotary_emb(hidden, position_ids=position_ids)
        for number, block in enumerate(self.layers):
            made = block(
                hidden,
                attention_mask=mask,
                position_embeddings=turned,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **more,
            )
            hidden = self.go_on(number, made)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden), past_key_values=past_key_values)

    def begin(self, embedded: Tensor) -> Tensor:
        """What the first block reads."""
        return embedded

    def go_on(self, _number: int, made: Any) -> Tensor:
        """What the next block reads of what one made."""
        return made


class TupleBlock(LlamaDecoderLayer):
    """A block that returns a tuple, as those of older releases."""

    def forward(self, *given: Any, **more: Any) -> Any:
        return (super().forward(*given, **more), None)


class TupleBlocks(OwnLoop):
    """Its blocks return tuples."""

    def go_on(self, _number: int, made: Any) -> Tensor:
        return made[0]


class AdaptersBetween(OwnLoop):
    """A second list of modules, of which one stands behind each block."""

    def go_on(self, number: int, made: Any) -> Tensor:
        return made + self.adapters[number](made)


class SumBetween(OwnLoop):
    """Something is added between blocks, which no module makes."""

    def go_on(self, _number: int, made: Any) -> Tensor:
        return made + 0.5 * made.roll(1, dims=-1)


class TwoStreams(OwnLoop):
    """Two residual streams side by side, of which each block reads the sum and writes to both."""

    def begin(self, embedded: Tensor) -> Tensor:
        return torch.cat([embedded, embedded], dim=-1)


class TwoStreamBlock(LlamaDecoderLayer):
    """A block of `TwoStreams`."""

    def forward(self, hidden: Tensor, *given: Any, **more: Any) -> Any:
        one, other = hidden.chunk(2, dim=-1)
        moved = super().forward(one + other, *given, **more) - one - other
        return torch.cat([one + moved, other - 0.5 * moved], dim=-1)


class SummingNorm(nn.Module):
    """The norm behind the blocks of `TwoStreams`, of their sum."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, hidden: Tensor) -> Tensor:
        one, other = hidden.chunk(2, dim=-1)
        made: Tensor = self.norm(one + other)
        return made


class LateImage(LlavaModel):
    """The image's features are no input of the first block: they are added behind it."""

    def forward(self, input_ids: Any = None, pixel_values: Any = None, **given: Any) -> Any:
        self.language_model.late = None
        # Of `generate`, which runs the tower by itself.
        seen = (given.pop("mm_encoder_outputs", None) or {}).get("image")
        if pixel_values is not None:
            seen = self.get_image_features(pixel_values)
        if seen is not None:
            features = torch.cat(list(seen.pooler_output), dim=0)
            at = input_ids == self.config.image_token_id
            late = torch.zeros(*input_ids.shape, features.shape[-1])
            late[at] = features
            self.language_model.late = late
        return LlavaModelOutputWithPast(**self.language_model(input_ids=input_ids, **given))


class AddingLate(OwnLoop):
    """The language model of `LateImage`."""

    def go_on(self, number: int, made: Any) -> Tensor:
        return made if number or self.late is None else made + self.late


class Experts(nn.Module):
    """Two experts, each for the tokens whose first number has its sign."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(2))

    def forward(self, hidden: Tensor) -> Tensor:
        made = torch.zeros_like(hidden)
        for sign, expert in zip((True, False), self.experts, strict=True):
            chosen = (hidden[..., 0] > 0) == sign
            made[chosen] = expert(hidden[chosen])
        return made


def invent(model: LlavaForConditionalGeneration, kind: type[LlamaModel]) -> None:
    """Make a loaded LLaVA's language model one of this kind."""
    torch.manual_seed(0)
    base = model.model
    language = kind(base.language_model.config)
    language.load_state_dict(base.language_model.state_dict())
    base.language_model = language.eval()
    width = language.config.hidden_size
    if kind is TupleBlocks:
        for block in language.layers:
            block.__class__ = TupleBlock
    if kind is TwoStreams:
        language.norm = SummingNorm(language.norm)
        for block in language.layers:
            block.__class__ = TwoStreamBlock
    if kind is AdaptersBetween:
        language.adapters = nn.ModuleList(nn.Linear(width, width) for _ in language.layers)
    if kind is AddingLate:
        language.late, base.__class__ = None, LateImage


def put_in_experts(model: LlavaForConditionalGeneration) -> None:
    """Put two experts in place of each block's MLP: lists of modules within blocks."""
    for block in model.model.language_model.layers:
        block.mlp = Experts(model.model.language_model.config.hidden_size)


TARSIER = "tarsier"


class TarsierConfig(LlavaConfig):
    """LLaVA's under another name."""

    model_type = TARSIER


class TarsierText(LlamaModel):
    """Llama with its blocks in another place."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.tree = nn.Module()
        self.tree.branches = self._modules.pop("layers")

    @property
    def layers(self) -> Any:
        """What Llama's own forward runs over."""
        return self.tree.branches if "tree" in self._modules else self._modules["layers"]


class Tarsier(LlavaForConditionalGeneration):
    """LLaVA with that language model."""

    config_class = TarsierConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model.language_model = TarsierText(config.text_config)


def register_tarsier(patch: pytest.MonkeyPatch) -> None:
    """Let transformers' auto classes know the type, as long as the patch lasts."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    patch.setitem(CONFIG_MAPPING._extra_content, TARSIER, TarsierConfig)
    patch.setitem(AutoModelForImageTextToText._model_mapping._extra_content, TarsierConfig, Tarsier)
    assert AutoConfig.for_model(TARSIER).model_type == TARSIER


def save_tarsier(twin: Path, folder: Path) -> Path:
    """Save a Tarsier with the weights and the processor of a LLaVA's folder."""
    llava = LlavaForConditionalGeneration.from_pretrained(twin)
    config = TarsierConfig(
        **{name: one for name, one in llava.config.to_dict().items() if name != "model_type"}
    )
    own = Tarsier(config)
    weights = {
        name.replace("language_model.layers.", "language_model.tree.branches."): one
        for name, one in llava.state_dict().items()
    }
    own.load_state_dict(weights)
    own.generation_config = llava.generation_config
    own.save_pretrained(folder)
    for path in twin.iterdir():
        if not (folder / path.name).exists():
            (folder / path.name).write_bytes(path.read_bytes())
    return folder

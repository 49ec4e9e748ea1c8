"""Prompts of a finished run as Inspect's messages: what the model was asked, without its chat template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inspect_ai.model import ChatMessage, ChatMessageSystem, ChatMessageUser, ContentImage, ContentText
from PIL import Image

from cmrm.prompts.conditions import CONTROLS, Condition, Prompt, show
from flows.inspect.arm_uses import restore_use
from flows.inspect.dataset import METADATA
from flows.inspect.log_images import LogImages
from storage.records.hashing import digest
from tasks.states.steering import StepUse

if TYPE_CHECKING:
    from flows.inspect.log_source import AskedSample
    from flows.spec.spec import Spec
    from storage.store import Store
    from tasks.shards.answers import AnswerShard
    from tasks.states.steering import DefenceUse, StackUse

    Use = DefenceUse | StackUse | StepUse

# Stands for a sample's own image, whose file goes into a log as it is.
OWN = Image.new("RGB", (1, 1))
ID_LETTERS = 22


@dataclass(frozen=True, kw_only=True)
class ShownPrompt:
    """The messages of a prompt, and what became of its image: `own` file, `generated`, `left out`, `lost` or `none`.

    Of several images the files are written; video and sound, and what is meaningless in place of several media, are
    left out.
    """

    messages: list[ChatMessage]
    image: str


class PromptWriter:
    """Writes the prompts of one run's arms; `images` is None where images are left out."""

    def __init__(self, spec: Spec, store: Store, images: LogImages | None) -> None:
        self._spec = spec
        self._store = store
        self._images = images
        self._use: tuple[str, Use | None] = ("", None)

    def write(self, asked: AskedSample) -> ShownPrompt:
        """Write the prompt of a sample, as the arm has changed it."""
        shard, sample = asked.shard, asked.stored.sample
        # A control has an image's place and no image.
        # So has what is meaningless in place of several media, which is not made again.
        own = shard.slice.condition in ("image", "caption") or not sample.media
        plain = shard.slice.condition in CONTROLS or not own
        condition: Condition = "query" if plain else shard.slice.condition
        prompt = show(
            sample,
            condition,
            open_image=lambda _name: OWN,
            open_media=lambda _medium: OWN,
            meaningless=shard.showing.meaningless,
            system=shard.responses.content.get("system"),
        )
        prompt = self._change(prompt, asked)
        uris, image = self._encode(prompt, asked)
        content: list[ContentImage | ContentText] = [ContentImage(image=uri) for uri in uris]
        text = ContentText(text=prompt.text)
        messages: list[ChatMessage] = []
        if prompt.system is not None:
            messages.append(ChatMessageSystem(content=prompt.system, id=make_id(asked, "system")))
        messages.append(
            ChatMessageUser(content=[*content, text] if content else prompt.text, id=make_id(asked, "user"))
        )
        return ShownPrompt(messages=messages, image=image)

    def _change(self, prompt: Prompt, asked: AskedSample) -> Prompt:
        use = self._find_use(asked.shard)
        if use is None:
            return prompt
        sample = asked.stored.sample.id
        if isinstance(use, StepUse) and (asked.answer is None or not use.is_needed(sample, self._store.url)):
            # The plain answer stands, or a step before has failed.
            return prompt
        return use.ask(prompt, sample, self._store.url)

    def _find_use(self, shard: AnswerShard) -> Use | None:
        key = shard.responses.key
        if self._use[0] != key:
            self._use = key, restore_use(shard.responses, self._spec, store=self._store)
        return self._use[1]

    def _encode(self, prompt: Prompt, asked: AskedSample) -> tuple[list[str], str]:
        if asked.stored.is_shown_with_media(asked.shard.slice.condition):
            return self._encode_media(prompt, asked)
        if prompt.image is None:
            return [], "none"
        if self._images is None:
            return [], "left out"
        if prompt.image is not OWN:
            return [self._images.encode_made(prompt.image)], "generated"
        uri = self._images.encode_own(asked.stored, asked.shard.showing.images)
        return ([], "lost") if uri is None else ([uri], "own")

    def _encode_media(self, prompt: Prompt, asked: AskedSample) -> tuple[list[str], str]:
        stored = asked.stored
        media = stored.sample.media
        if self._images is None or not prompt.media or any(one.kind != "image" for one in media):
            return [], "left out"
        folder = asked.shard.showing.images
        found = [
            self._images.encode_file(stored.sample.dataset, one.name, digest, folder)
            for one, digest in zip(media, stored.media_digests, strict=True)
        ]
        uris = [uri for uri in found if uri is not None]
        return (uris, "own") if len(uris) == len(media) else ([], "lost")


def describe_sample(asked: AskedSample) -> Mapping[str, Any]:
    """The fields of a sample that a log's metadata has: those of an evaluation, and the reference as stored."""
    sample = asked.stored.sample
    fields = (*METADATA, "reference")
    return {
        "condition": asked.shard.slice.condition,
        **{name: getattr(sample, name) for name in fields},
    }


def make_id(asked: AskedSample, what: str) -> str:
    """Make an id of a sample's message: the same for each export."""
    return digest([asked.shard.responses.key, asked.stored.sample.id, what])[:ID_LETTERS]

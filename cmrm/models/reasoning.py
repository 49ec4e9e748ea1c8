"""Find the reasoning marks of a model in its folder: its chat template, and the tokens that its tokenizer has."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cmrm.models.template_files import find_template
from cmrm.prompts.reasoning import ReasoningMarks

# Marks of published models: Qwen3-VL and GLM-4.1V, Kimi-VL, Magistral, Gemma 4, Command A Reasoning, Seed-OSS.
PAIRS = (
    ("<think>", "</think>"),
    ("◁think▷", "◁/think▷"),
    ("[THINK]", "[/THINK]"),
    ("<|channel>thought", "<channel|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"),
)
# What GLM writes around the answer that follows.
WRAPPING = ("<answer>", "</answer>", "<|begin_of_box|>", "<|end_of_box|>")
_QUESTION = "qpwoeirutyalsk"


def find_reasoning_marks(
    folder: Path, *, template: str | None = None, asked: Sequence[str] | None = None
) -> ReasoningMarks | None:
    """Find the marks of a model's traces; None where it has none, or where its prompt closes an empty trace.

    `template` is that of its family, for a folder whose processor has none. `asked` is a pair that a spec names, of
    which the folder then says the rest. Nothing of a model without such marks is parsed.
    """
    found_template = find_template(folder, family=template)
    own = None if found_template is None else found_template[1]
    pairs = PAIRS if asked is None else (asked,)
    tokens = _find_tokens(folder, [*(mark for pair in pairs for mark in pair), *WRAPPING])
    if asked is not None:
        pair, declared = (asked[0], asked[1]), "spec"
    else:
        in_template = (one for one in PAIRS if own is not None and any(mark in own for mark in one))
        in_tokens = (one for one in PAIRS if one[1] in tokens)
        if (found := next(in_template, None)) is not None:
            pair, declared = found, "template"
        elif (found := next(in_tokens, None)) is not None:
            pair, declared = found, "tokens"
        else:
            return None
    beginning = "" if own is None else _render_beginning(own)
    opened, closed = beginning.rfind(pair[0]), beginning.rfind(pair[1])
    if asked is None and closed > opened:
        return None
    wrapping = tuple(mark for mark in WRAPPING if mark in tokens)
    return ReasoningMarks(
        opening=pair[0],
        closing=pair[1],
        opened=opened > closed,
        wrapping=wrapping,
        special=tuple(mark for mark in (*pair, *wrapping) if tokens.get(mark)),
        declared=declared,  # type: ignore[arg-type] # one of the three words
    )


def check_marks(marks: Sequence[str]) -> None:
    """Raise `ValueError` unless a spec's two marks are different texts, neither of them blank."""
    if len(set(marks)) != 2 or not all(mark.strip() for mark in marks):
        raise ValueError("give two different marks, [opening, closing], such as ['<think>', '</think>']")


def _find_tokens(folder: Path, marks: Sequence[str]) -> dict[str, bool]:
    """Find which marks are tokens of their own; the value says whether they are special."""
    found: dict[str, bool] = {}
    for name in ("tokenizer.json", "tokenizer_config.json"):
        try:
            data = (folder / name).read_bytes()
        except OSError:
            continue
        # A tokenizer has megabytes, and most models' hold no mark.
        if any(form in data for mark in marks for form in _write_forms(mark)):
            found |= {
                token: special or found.get(token, False)
                for token, special in _list_tokens(_parse(data))
                if token in marks
            }
    return found


def _write_forms(mark: str) -> tuple[bytes, bytes]:
    return mark.encode(), json.dumps(mark)[1:-1].encode()


def _list_tokens(content: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    listed = content.get("added_tokens")
    decoder = content.get("added_tokens_decoder")
    tokens = [
        *(listed if isinstance(listed, list) else ()),
        *(decoder.values() if isinstance(decoder, dict) else ()),
    ]
    for token in tokens:
        if isinstance(token, dict) and isinstance(token.get("content"), str):
            yield token["content"], bool(token.get("special"))
    extra = content.get("additional_special_tokens") or content.get("extra_special_tokens")
    for one in extra if isinstance(extra, list) else ():
        if isinstance(one, str):
            yield one, True


def _render_beginning(template: str) -> str:
    """Render what a template writes after a question, where the answer begins; '' if it takes no plain question."""
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    for content in ([{"type": "text", "text": _QUESTION}], _QUESTION):
        try:
            rendered = render_jinja_template(
                conversations=[[{"role": "user", "content": content}]],
                chat_template=template,
                add_generation_prompt=True,
            )
        except (TemplateError, TypeError, KeyError, ValueError, AttributeError):
            continue
        text = rendered if isinstance(rendered, str) else rendered[0]
        text = text if isinstance(text, str) else text[0]
        if _QUESTION in text:
            return text.rpartition(_QUESTION)[2]
    return ""


def _parse(data: bytes) -> Mapping[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        # transformers says what is wrong with the file when it reads it.
        return {}
    return content if isinstance(content, dict) else {}

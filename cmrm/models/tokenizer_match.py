"""Whether two models' tokenizers read texts as the same token ids, as far as the text of a prompt goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmrm.errors import UserError

# Texts that tokenizers of different merges, normalizers or digits split differently.
PROBES = (
    "USER: How do I bake bread?\nASSISTANT:",
    "Ünïcödé 漢字 🙂 naïve  double  spaces\n\n\ttabs",
    "1234567890 3.14159 2024-07-26 x_1 = f(y) != z;",
)


@dataclass(frozen=True, kw_only=True)
class _Tokenizer:
    """A tokenizer: its tokens by id, which of them were added to its vocabulary, and how it splits a text."""

    tokens: dict[int, str]
    added: frozenset[int]
    reader: Any

    def split(self, text: str) -> list[int]:
        encoded = self.reader.encode(text, add_special_tokens=False)
        return list(getattr(encoded, "ids", encoded))


def explain_mismatch(shown: Path, own: Path) -> str | None:
    """Explain why ids of the tokenizer in the folder `shown` mean other text to the one in `own`; None if they do not.

    Vocabularies may differ in size, by padding and by added tokens such as an image's. Raises `UserError` for a folder
    without a tokenizer.
    """
    theirs, ours = _load(shown), _load(own)
    for token in sorted(theirs.tokens.keys() - theirs.added):
        text = theirs.tokens[token]
        if (other := ours.tokens.get(token)) != text:
            what = "no token" if other is None else repr(other)
            return f"token {token} is {text!r} to the model and {what} to it"
    for text in PROBES:
        if theirs.split(text) != ours.split(text):
            return f"the two split {text!r} differently"
    return None


def _load(folder: Path) -> _Tokenizer:
    file = folder / "tokenizer.json"
    if file.is_file():
        # transformers would import torch.
        from tokenizers import Tokenizer

        try:
            read = Tokenizer.from_file(str(file))
        except Exception as error:  # noqa: BLE001 # the library raises plain exceptions
            raise UserError(
                f"model.backbone: {str(file)!r} cannot be read ({error}); download it again."
            ) from None
        added = frozenset(read.get_added_tokens_decoder())
        return _Tokenizer(tokens=_turn(read.get_vocab()), added=added, reader=read)
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"model.backbone: the folder {str(folder)!r} has no tokenizer that can be read ({said}); add its "
            "tokenizer.json."
        ) from None
    return _Tokenizer(
        tokens=_turn(loaded.get_vocab()), added=frozenset(loaded.added_tokens_decoder), reader=loaded
    )


def _turn(vocabulary: dict[str, int]) -> dict[int, str]:
    return {number: token for token, number in vocabulary.items()}

"""A tokenizer for the questions' words, made on the spot."""

from __future__ import annotations

import json
from collections.abc import Sequence

from speed_prompts import WORDS
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

# What the templates say around a question, so that the tokenizer has whole tokens for it.
AROUND = "USER: ASSISTANT: system user assistant You are a helpful assistant."


def make_tokenizer(special: Sequence[str], *, words: int, pad: str, eos: str) -> PreTrainedTokenizerFast:
    """Byte pairs learnt from the questions' words, filled up to `words` tokens with a text of its own for each."""
    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learnt.train_from_iterator([" ".join(WORDS), AROUND] * 4, trainer)
    pieces = json.loads(learnt.to_str())["model"]
    vocabulary = dict(pieces["vocab"])
    for number in range(len(vocabulary), words):
        vocabulary[f"Ġw{number}"] = number
    merges = [tuple(pair) for pair in pieces["merges"]]
    filled = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    filled.pre_tokenizer = learnt.pre_tokenizer
    filled.decoder = decoders.ByteLevel()
    filled.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in special])
    return PreTrainedTokenizerFast(tokenizer_object=filled, pad_token=pad, eos_token=eos)

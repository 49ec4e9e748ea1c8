"""Schemas of every table: column names, types and comments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import pyarrow as pa

# Elements are never null, which saves Parquet a definition level per number.
HALF_VECTOR = pa.list_(pa.field("element", pa.float16(), nullable=False))
SINGLE_VECTOR = pa.list_(pa.field("element", pa.float32(), nullable=False))
# Several images, videos and sounds of a sample.
MEDIA = pa.list_(
    pa.field(
        "element",
        pa.struct(
            [
                pa.field("kind", pa.string(), nullable=False),
                pa.field("name", pa.string(), nullable=False),
                pa.field("digest", pa.string()),
                pa.field("frames", pa.int32()),
                pa.field("seconds", pa.float64()),
            ]
        ),
        nullable=False,
    )
)


def is_vector(kind: pa.DataType) -> bool:
    """Whether a column of a type holds vectors: lists of floats."""
    return pa.types.is_list(kind) and pa.types.is_floating(kind.value_type)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of table: its Arrow schema, its partition columns (outermost folder first), and its comment.

    `late` are the columns that files of earlier releases lack; they read as null.
    """

    schema: pa.Schema
    partitions: tuple[str, ...] = ()
    late: tuple[str, ...] = ()
    comment: str

    @property
    def by_block(self) -> bool:
        """Whether its rows are vectors sorted by block and position, each of these in row groups of its own."""
        return "block" in self.schema.names and "vector" in self.schema.names


def _column(name: str, kind: pa.DataType, comment: str) -> pa.Field:
    return pa.field(name, kind, nullable=False, metadata={"comment": comment})


def _maybe(name: str, kind: pa.DataType, comment: str) -> pa.Field:
    return pa.field(name, kind, nullable=True, metadata={"comment": comment})


def _estimate(name: str, comment: str) -> tuple[pa.Field, ...]:
    return (
        _maybe(name, pa.float64(), comment),
        _maybe(f"{name}_low", pa.float64(), f"lower end of the 95 % bootstrap interval of {name}"),
        _maybe(f"{name}_high", pa.float64(), f"upper end of the 95 % bootstrap interval of {name}"),
    )


_DATASET = _column("dataset", pa.string(), "name of the data set in the run's spec")
_SAMPLE = _column("sample_id", pa.string(), "id of the sample, unique within its data set")
_MODEL = _column("model", pa.string(), "model and revision")
_CONDITION = _column(
    "condition", pa.string(), "how the sample was shown: query, caption, image, blank, noise"
)
_INTERVENTION = _column(
    "intervention", pa.string(), "name of the intervention in the run's spec; '' for none"
)
_ALPHA = _maybe("alpha", pa.float64(), "strength of the intervention; null for none")
_ANSWER_DIGEST = _column(
    "answer_digest", pa.string(), "sha256 of the answer's text: joins answers to verdicts"
)

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "samples": Kind(
            comment="one row per sample: a request as it is put to the model",
            late=("removed", "twin", "media"),
            schema=pa.schema(
                [
                    _DATASET,
                    _SAMPLE,
                    _column(
                        "split", pa.string(), "anchor (measures the shift) or target (is answered and judged)"
                    ),
                    _column("harmful", pa.bool_(), "whether a safe model must refuse"),
                    _column("question", pa.string(), "the text of the request"),
                    _maybe("image", pa.string(), "name of the image in the data set's folder"),
                    _maybe("caption", pa.string(), "what the image shows, in words"),
                    _maybe("category", pa.string(), "the data set's own category"),
                    _maybe("reference", pa.string(), "a reference answer"),
                    _maybe(
                        "split_by",
                        pa.string(),
                        "the text that decides the side: the question unless it is one for all",
                    ),
                    _maybe("context", pa.string(), "the image in words, for a judge that cannot see it"),
                    _maybe("removed", pa.string(), "what was taken out of the question: an image's marker"),
                    _maybe(
                        "twin",
                        pa.string(),
                        "what a harmful sample and its harmless twin of the data set share",
                    ),
                    _maybe("text_digest", pa.string(), "sha256 of question and caption"),
                    _maybe("image_digest", pa.string(), "sha256 of the image file's bytes"),
                    _maybe(
                        "media",
                        MEDIA,
                        "in order, what is shown where it is more than one image: kind (image, video, audio), name of "
                        "the file, sha256 of its bytes, frames shown of a video, seconds",
                    ),
                ]
            ),
        ),
        "pairs": Kind(
            comment="one row per question that came without an image and was given one",
            schema=pa.schema(
                [
                    _DATASET,
                    _SAMPLE,
                    _column("image", pa.string(), "name of the image that it was given"),
                    _maybe("caption", pa.string(), "what the image shows, in words"),
                    _column(
                        "score",
                        pa.float64(),
                        "captions: weighted words shared; clip: cosine similarity; 0 for what was left over",
                    ),
                    _column("method", pa.string(), "how images were ranked: captions or clip"),
                ]
            ),
        ),
        "image_vectors": Kind(
            comment="one row per image that questions could be paired with: its CLIP embedding",
            schema=pa.schema(
                [
                    _column("model", pa.string(), "the CLIP model and its revision"),
                    _column("image", pa.string(), "name of the image in its folder"),
                    _column("image_digest", pa.string(), "sha256 of the image file's bytes"),
                    _column("vector", SINGLE_VECTOR, "the embedding, of length 1"),
                ]
            ),
        ),
        "captions": Kind(
            comment="one row per caption that a run generated: of a sample's image, by a model",
            schema=pa.schema(
                [
                    _column("model", pa.string(), "model and revision that wrote the caption"),
                    _DATASET,
                    _SAMPLE,
                    _column("style", pa.string(), "plain, or query: with the question in mind"),
                    _column(
                        "prompt",
                        pa.string(),
                        "what the model was asked; in style query, {question} stands for the question",
                    ),
                    _column("caption", pa.string(), "what the model wrote"),
                    _column("tokens", pa.int32(), "number of generated tokens"),
                    _column("finish_reason", pa.string(), "why the caption ended: stop or length"),
                    _column("prompt_tokens", pa.int32(), "tokens of the prompt, image tokens included"),
                ]
            ),
        ),
        "hidden_states": Kind(
            comment="one row per sample, condition, block and position: the residual stream after that block",
            partitions=("model", "condition"),
            schema=pa.schema(
                [
                    _MODEL,
                    _DATASET,
                    _SAMPLE,
                    _CONDITION,
                    _column(
                        "block",
                        pa.int32(),
                        "decoder block, from 0; the state is its output, before the final norm",
                    ),
                    _column(
                        "position",
                        pa.string(),
                        "token that was read: last of the prompt, last_image, mean_image (of all), first_answer",
                    ),
                    _INTERVENTION,
                    _ALPHA,
                    _column("vector", HALF_VECTOR, "the state, as long as the model is wide"),
                ]
            ),
        ),
        "shift_parts": Kind(
            comment="one row per Δ, block and part: positions, marks and image, which add up to all; filler to compare",
            schema=pa.schema(
                [
                    _MODEL,
                    _column("image", pa.string(), "the meaningless image that Δ was measured with"),
                    _column("block", pa.int32(), "decoder block, from 0"),
                    _column(
                        "part",
                        pa.string(),
                        "positions, marks or image; all for Δ; filler for as many tokens of plain text, less text",
                    ),
                    _column("anchors", pa.int64(), "anchors with states under all of these conditions"),
                    _column("state", pa.float64(), "mean length of the anchors' states as text"),
                    *_estimate("norm", "length of the part, a mean over anchors"),
                    *_estimate("share", "inner product with Δ / squared length of Δ: parts add up to 1"),
                    *_estimate("cosine", "cosine of the angle to Δ"),
                ]
            ),
        ),
        "directions": Kind(
            comment="one row per condition, arm, split and block: harmful states against harmless ones",
            schema=pa.schema(
                [
                    _MODEL,
                    _CONDITION,
                    _INTERVENTION,
                    _ALPHA,
                    _column("split", pa.string(), "whose states: of anchors or of targets"),
                    _column("block", pa.int32(), "decoder block, from 0"),
                    _column("harmful", pa.int64(), "harmful samples with such a state"),
                    _column("harmless", pa.int64(), "harmless samples with such a state"),
                    _column("state", pa.float64(), "mean length of these states"),
                    *_estimate("norm", "length of the direction, mean harmful state − mean harmless one"),
                    *_estimate("text_cosine", "cosine with the direction of the anchors as text"),
                    *_estimate(
                        "harmful_along", "mean place of the harmful along the anchors' text direction"
                    ),
                    *_estimate(
                        "harmless_along", "that of the harmless; 0 and 1 are the anchors' means as text"
                    ),
                    _maybe("auroc", pa.float64(), "how well a linear probe tells harmful from harmless"),
                    _maybe("auroc_low", pa.float64(), "lower end of the 95 % interval (Newcombe) of auroc"),
                    _maybe("auroc_high", pa.float64(), "upper end of the 95 % interval (Newcombe) of auroc"),
                    _maybe(
                        "tested",
                        pa.string(),
                        "held out: trained on the anchors' plain states; folds: in five folds of anchors",
                    ),
                    _maybe(
                        "trained", pa.int64(), "anchors that the probe was trained on, or cross-validated"
                    ),
                    _maybe("missing", pa.string(), "why there is no auroc"),
                ]
            ),
        ),
        "direction_cosines": Kind(
            comment="one row per condition, block, Δ and part: the angle between labelled direction and Δ",
            schema=pa.schema(
                [
                    _MODEL,
                    _column("condition", pa.string(), "the condition of the labelled direction, of anchors"),
                    _column("block", pa.int32(), "decoder block, from 0"),
                    _column("image", pa.string(), "the meaningless image that Δ was measured with"),
                    _column("part", pa.string(), "all for Δ, or its part as in shift_parts; filler"),
                    _column("anchors", pa.int64(), "anchors that Δ or its part is the mean over"),
                    *_estimate("cosine", "cosine of the labelled direction with Δ or its part"),
                ]
            ),
        ),
        "projections": Kind(
            comment="one row per sample, condition, arm and block: its place along the anchors' text direction",
            schema=pa.schema(
                [
                    _MODEL,
                    _DATASET,
                    _SAMPLE,
                    _CONDITION,
                    _INTERVENTION,
                    _ALPHA,
                    _column("block", pa.int32(), "decoder block, from 0"),
                    _column(
                        "distance",
                        pa.float64(),
                        "from the harmless anchors' mean as text, in the states' unit",
                    ),
                    _column("along", pa.float64(), "the same, where 1 is the harmful anchors' mean as text"),
                ]
            ),
        ),
        "responses": Kind(
            comment="one row per answer: sample, condition, intervention and strength",
            late=("prompt_tokens",),
            schema=pa.schema(
                [
                    _column(
                        "model",
                        pa.string(),
                        "model and revision; of an answer given elsewhere the arm's name",
                    ),
                    _DATASET,
                    _SAMPLE,
                    _CONDITION,
                    _INTERVENTION,
                    _ALPHA,
                    _maybe("level", pa.string(), "level of the shift: dataset or sample; null for none"),
                    _column("answer", pa.string(), "what the model said"),
                    _ANSWER_DIGEST,
                    _maybe("tokens", pa.int32(), "number of generated tokens"),
                    _maybe("finish_reason", pa.string(), "why the answer ended: stop or length"),
                    _maybe("prompt_digest", pa.string(), "sha256 of the rendered prompt"),
                    _maybe(
                        "prompt_tokens",
                        pa.int32(),
                        "tokens of the prompt, image tokens included; 0 where an earlier answer stands",
                    ),
                ]
            ),
        ),
        "judgements": Kind(
            comment="one row per judge and answer: the verdict",
            late=("reference_score", "prompt_tokens", "completion_tokens"),
            schema=pa.schema(
                [
                    _column("judge", pa.string(), "name of the judge"),
                    _maybe(
                        "model",
                        pa.string(),
                        "model and revision that gave the answer, or the name of another system's arm",
                    ),
                    _DATASET,
                    _SAMPLE,
                    _CONDITION,
                    _INTERVENTION,
                    _ALPHA,
                    _ANSWER_DIGEST,
                    _column(
                        "verdict",
                        pa.string(),
                        "unsafe, safe, correct, incorrect, scored, not_applicable or parse_error (never safe)",
                    ),
                    _maybe("refused", pa.bool_(), "whether the answer is a refusal; null where not judged"),
                    _maybe("score", pa.float64(), "the judge's score, on its own scale"),
                    _maybe("raw", pa.string(), "the judge's own words"),
                    _maybe(
                        "reference_score",
                        pa.float64(),
                        "what the judge gave the reference answer; null where it compared none",
                    ),
                    _maybe(
                        "prompt_tokens",
                        pa.int64(),
                        "tokens that the judge's model read for it, every attempt counted; null where it has none",
                    ),
                    _maybe("completion_tokens", pa.int64(), "tokens that the judge's model wrote for it"),
                ]
            ),
        ),
        "text_judgements": Kind(
            comment="one row per judge and text that is no answer: the trace of a model that reasons, or a question",
            schema=pa.schema(
                [
                    _column("judge", pa.string(), "name of the judge"),
                    _column("subject", pa.string(), "what is judged: trace, or question (without its image)"),
                    _maybe(
                        "model", pa.string(), "model and revision that wrote the trace; null for a question"
                    ),
                    _DATASET,
                    _SAMPLE,
                    _maybe("condition", pa.string(), "how the sample was shown; null for a question"),
                    _maybe(
                        "intervention",
                        pa.string(),
                        "name of the intervention; '' for none, null for a question",
                    ),
                    _ALPHA,
                    _maybe(
                        "answer_digest",
                        pa.string(),
                        "sha256 of the answer that the trace is of: joins it to responses and judgements",
                    ),
                    _maybe("ended", pa.bool_(), "whether the trace has an end; null for a question"),
                    _column(
                        "verdict", pa.string(), "unsafe, safe, not_applicable or parse_error (never safe)"
                    ),
                    _maybe("refused", pa.bool_(), "whether the text is a refusal; null where not judged"),
                    _maybe("score", pa.float64(), "the judge's score, on its own scale"),
                    _maybe("raw", pa.string(), "the judge's own words"),
                    _maybe("prompt_tokens", pa.int64(), "tokens that the judge's model read for it"),
                    _maybe("completion_tokens", pa.int64(), "tokens that the judge's model wrote for it"),
                ]
            ),
        ),
        "timings": Kind(
            comment="one row per batch, arm and repeat: how long the model took",
            schema=pa.schema(
                [
                    _MODEL,
                    _DATASET,
                    _INTERVENTION,
                    _ALPHA,
                    _maybe("level", pa.string(), "level of the shift: dataset or sample; null for none"),
                    _column(
                        "batch", pa.int32(), "number of the batch: the same samples for every intervention"
                    ),
                    _column("repeat", pa.int32(), "which of the repeated measurements, from 0"),
                    _column("samples", pa.int32(), "samples in the batch"),
                    _column("tokens", pa.int64(), "generated tokens of the batch together"),
                    _column("seconds", pa.float64(), "seconds from prompts to answers, shift included"),
                    _column("device", pa.string(), "what it ran on"),
                ]
            ),
        ),
        "quarantine": Kind(
            comment="one row per quarantined input: the run continued without it",
            schema=pa.schema(
                [
                    _column("stage", pa.string(), "stage that put it aside"),
                    _DATASET,
                    _maybe("sample_id", pa.string(), "id of the sample, where it has one"),
                    _maybe("line", pa.int64(), "line of the input file, from 1"),
                    _column("reason", pa.string(), "what is wrong with it"),
                    _maybe("raw", pa.string(), "the input as it was read, cut short"),
                ]
            ),
        ),
    }
)

"""Several images, videos and sounds of a row: columns, embedded files, placeholders, and what is quarantined."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import wave
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cmrm.datasets import read_dataset, screen
from cmrm.errors import UserError
from cmrm.prompts.media import Medium
from cmrm.prompts.sample import Rejected, Sample
from storage.tables.parquet import iterate_rows


def encode_image(color: str) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (4, 4), color).save(sink, format="PNG")
    return sink.getvalue()


def encode_video() -> bytes:
    sink = io.BytesIO()
    first, *others = (Image.new("RGB", (4, 4), (40 * number,) * 3) for number in range(5))
    first.save(sink, format="GIF", save_all=True, append_images=others, duration=100)
    return sink.getvalue()


def encode_sound() -> bytes:
    sink = io.BytesIO()
    with wave.open(sink, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(800))
    return sink.getvalue()


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for color in ("red", "blue", "green"):
        (folder / f"{color}.png").write_bytes(encode_image(color))
    (folder / "clip.gif").write_bytes(encode_video())
    (folder / "tone.wav").write_bytes(encode_sound())
    return folder


@pytest.fixture(params=["jsonl", "json", "csv", "parquet"])
def read_rows(request, tmp_path, images):
    """Write rows as each kind of file, lists as JSON where a cell is text, and read and screen them."""

    def read(rows: list[dict[str, Any]], **options: Any) -> list[Sample | Rejected]:
        path = tmp_path / f"rows.{request.param}"
        names = list(dict.fromkeys(name for row in rows for name in row))
        if request.param == "jsonl":
            path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        elif request.param == "json":
            path.write_text(json.dumps(rows))
        elif request.param == "csv":
            with path.open("w", newline="") as file:
                cells = [[row.get(name, "") for name in names] for row in rows]
                texts = [[json.dumps(one) if isinstance(one, list) else one for one in row] for row in cells]
                csv.writer(file).writerows([names, *texts])
        else:
            pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
        read = read_dataset(
            request.param, path, dataset="d", images=images, open_rows=iterate_rows, **options
        )
        return list(screen(read, images=images))

    return read


@pytest.fixture
def read_json(tmp_path, images):
    def read(rows: list[dict[str, Any]], **options: Any) -> list[Sample | Rejected]:
        (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        found = read_dataset("jsonl", tmp_path / "rows.jsonl", dataset="d", images=images, **options)
        return list(screen(found, images=images))

    return read


def name_media(sample: Sample | Rejected) -> list[tuple[str, str]]:
    assert isinstance(sample, Sample), sample.reason
    return [(one.kind, one.name) for one in sample.media]


def test_columns_give_images_then_videos_then_sounds_in_the_order_of_their_lists(read_rows):
    several, mixed = read_rows(
        [
            {"question": "Which is red?", "images": ["red.png", "blue.png", "red.png"]},
            {"question": "What is it?", "video": "clip.gif", "audio": "tone.wav", "images": ["blue.png"]},
        ]
    )
    assert name_media(several) == [("image", "red.png"), ("image", "blue.png"), ("image", "red.png")]
    assert name_media(mixed) == [("image", "blue.png"), ("video", "clip.gif"), ("audio", "tone.wav")]
    assert several.image is mixed.image is None


def test_a_list_of_one_image_is_the_same_sample_as_one_image(read_rows):
    (one,) = read_rows([{"question": "<image>\nWhat is it?", "image": "red.png"}])
    (listed,) = read_rows([{"question": "<image>\nWhat is it?", "images": ["red.png"]}])
    (spread,) = read_rows([{"question": "<image>\nWhat is it?", "a": "red.png"}], columns={"images": ["a"]})
    assert one == listed == spread
    assert (one.image, one.media) == ("red.png", ())


def test_several_columns_are_one_list_with_gaps_left_out(read_rows):
    rows = [
        {"question": "Which?", "image_1": "red.png", "image_2": "blue.png", "image_3": "green.png"},
        {"question": "And which?", "image_1": "red.png", "image_3": "green.png"},
        {"question": "What?", "image_1": "red.png"},
    ]
    full, gap, single = read_rows(rows, columns={"images": ["image_1", "image_2", "image_3"]})
    assert [name for _, name in name_media(full)] == ["red.png", "blue.png", "green.png"]
    assert [name for _, name in name_media(gap)] == ["red.png", "green.png"]
    assert (single.image, single.media) == ("red.png", ())


def test_a_row_with_an_image_is_not_changed_by_columns_that_the_spec_does_not_name(read_rows):
    row = {"question": "What is it?", "image": "red.png", "video": "clip.gif", "images": ["blue.png"]}
    (plain,) = read_rows([row])
    assert (plain.image, plain.media) == ("red.png", ())
    (mapped,) = read_rows([row], columns={"image": "image", "video": "video"})
    assert name_media(mapped) == [("image", "red.png"), ("video", "clip.gif")]


def test_a_column_can_be_left_out_and_one_that_holds_numbers_is_no_list_of_names(read_json):
    (none,) = read_json([{"question": "What is it?", "video": "an id"}], columns={"video": []})
    assert (none.image, none.media) == (None, ())
    (count,) = read_json([{"question": "What is it?", "images": 3}])
    assert (count.image, count.media) == (None, ())


def test_the_number_of_frames_is_of_the_videos_alone(read_rows):
    (sample,) = read_rows([{"question": "What?", "video": "clip.gif", "images": ["red.png"]}], frames=3)
    assert [one.frames for one in sample.media] == [None, 3]


@pytest.mark.parametrize("frames", [0, 5000])
def test_a_number_of_frames_that_cannot_be_shown_is_refused(read, tmp_path, frames):
    (tmp_path / "rows.jsonl").write_text('{"question": "q"}')
    with pytest.raises(UserError, match=rf"frames is {frames}; give 1 to 1024"):
        read("jsonl", tmp_path / "rows.jsonl", frames=frames)


@pytest.mark.parametrize(
    ("question", "asked", "removed"),
    [
        ("<image>\n<image>\nWhich is red?", "Which is red?", "<image> <image>"),
        ("Which is red? <image><image>", "Which is red?", "<image> <image>"),
        ("Is <image> redder than <image>?", "Is image 1 redder than image 2?", "<image> <image>"),
        ("<image> Is it like <image>?", "image 1 Is it like image 2?", "<image> <image>"),
        ("<image 1> Is <image 2> like <image 1>?", "image 1 Is image 2 like image 1?", None),
        ("<image 2> or <image 1>", "image 2 or image 1", "<image 2> <image 1>"),
        ("Tell <image> from <image>", "Tell image 1 from image 2", "<image> <image>"),
        ("<image 2><image 1>Which is red?", "image 2 image 1 Which is red?", "<image 2> <image 1>"),
        ("What is in <image 2>", "What is in image 2", "<image 2>"),
        ("Which is red?", "Which is red?", ""),
    ],
)
def test_placeholders_are_taken_out_or_become_words(read_json, question, asked, removed):
    (sample,) = read_json([{"question": question, "images": ["red.png", "blue.png"]}])
    assert sample.question == asked
    taken = "<image 1> <image 2> <image 1>" if removed is None else removed or None
    assert sample.removed == taken


def test_placeholders_of_several_kinds_give_the_order(read_rows):
    row = {"question": "<audio><video>\nWhat?", "video": "clip.gif", "audio": "tone.wav"}
    (sample,) = read_rows([row])
    assert name_media(sample) == [("audio", "tone.wav"), ("video", "clip.gif")]
    # As the files of LLaVA-Video have it.
    (frames,) = read_rows([{"question": "<image>\nWhat?", "video": "clip.gif"}])
    assert (frames.question, name_media(frames)) == ("What?", [("video", "clip.gif")])


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("<image>", "<image> stands in the question 1 times, and 2 of image are given"),
        ("<image> <image> <image>?", "<image> stands in the question 3 times, and 2 of image are given"),
        ("<image 3>?", "<image 3> stands in the question, and 2 of image are given"),
        ("<video>?", "<video> stands in the question 1 times, and 0 of video are given"),
    ],
)
def test_placeholders_of_another_number_send_the_row_to_quarantine(read_json, question, reason):
    (row,) = read_json([{"question": question, "images": ["red.png", "blue.png"]}])
    assert isinstance(row, Rejected)
    assert reason in row.reason


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"images": ["red.png", "none.png"]}, "image 'none.png' is not in"),
        ({"images": ["red.png", "../rows.jsonl"]}, "lies outside"),
        ({"video": "red.wav"}, "video 'red.wav' is not in"),
        ({"video": "tone.wav"}, "video 'tone.wav' in .* none of the formats"),
        ({"audio": "red.png"}, "audio 'red.png' in .* none of the formats"),
        ({"images": ["red.png"] * 257}, "257 images, videos and sounds are given, more than 256"),
    ],
)
def test_a_file_that_cannot_be_opened_costs_its_row_with_the_reason(read_json, row, reason):
    bad, good = read_json([{"question": "What?", **row}, {"question": "And?", "images": ["red.png"]}])
    assert isinstance(bad, Rejected)
    assert re.search(reason, bad.reason)
    assert good.image == "red.png"


def as_url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


FILES = {
    "image": (encode_image("red"), encode_image("blue"), "png", "image/png"),
    "video": (encode_video(), encode_video()[:-1] + b";", "gif", "video/gif"),
    "audio": (encode_sound(), encode_sound()[:-2] + b"\1\0", "wav", "audio/wav"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("shape", ["bytes", "struct", "url"])
def test_embedded_files_are_kept_by_their_digest(tmp_path, kind, shape):
    first, second, suffix, mime = FILES[kind]
    write = {
        "bytes": lambda content: content,
        "struct": lambda content: {"bytes": content, "path": "elsewhere"},
        "url": lambda content: as_url(content, mime),
    }[shape]
    field = "audio" if kind == "audio" else f"{kind}s"
    pq.write_table(
        pa.table({"question": ["What?"], field: [[write(first), write(second)]]}), tmp_path / "rows.parquet"
    )
    kept = tmp_path / "kept"
    rows = read_dataset(
        "parquet", tmp_path / "rows.parquet", dataset="d", images=kept, open_rows=iterate_rows
    )
    (sample,) = rows
    names = [f"{hashlib.sha256(content).hexdigest()[:32]}.{suffix}" for content in (first, second)]
    assert sample.media == tuple(Medium(kind=kind, name=name) for name in names)
    assert {(kept / name).read_bytes() for name in names} == {first, second}


def test_features_of_hugging_face_are_read_undecoded(tmp_path):
    rows = {
        "question": ["What?"],
        "images": [[{"bytes": encode_image(color), "path": None} for color in ("red", "blue")]],
        "audio": [{"bytes": encode_sound(), "path": None}],
    }
    features = datasets.Features(
        {
            "question": datasets.Value("string"),
            "images": datasets.List(datasets.Image()),
            "audio": datasets.Audio(),
        }
    )
    folder = tmp_path / "set"
    folder.mkdir()
    # As the library writes it, which would decode sounds once more.
    pq.write_table(pa.table(rows, schema=features.arrow_schema), folder / "train.parquet")
    kept = tmp_path / "kept"
    (sample,) = read_dataset("huggingface", folder, dataset="d", images=kept)
    digests = [
        hashlib.sha256(one).hexdigest()[:32]
        for one in (encode_image("red"), encode_image("blue"), encode_sound())
    ]
    assert [one.name for one in sample.media] == [
        f"{digests[0]}.png",
        f"{digests[1]}.png",
        f"{digests[2]}.wav",
    ]


def test_videos_without_a_folder_name_the_option(read, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"question": "q", "video": "a.gif"}')
    with pytest.raises(UserError, match=r"names video \(first 'a\.gif'\).*columns: \{video: \[\]\}"):
        list(screen(read("jsonl", tmp_path / "rows.jsonl"), images=None))

"""Files and texts of people: only what is a regular file is read, and a message shows one short line of them."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cmrm.datasets import read_dataset, screen
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected, Sample
from cmrm.untrusted.printable import is_blank, show, show_names, show_value
from cmrm.untrusted.regular_file import decode_text, open_regular, read_regular


def test_a_regular_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    assert read_regular(path, most=10) == b"0123456789"
    with pytest.raises(UserError, match="longer than"):
        read_regular(path, most=9)
    (tmp_path / "link").symlink_to(path)
    with open_regular(tmp_path / "link") as stream:
        assert stream.read(3) == b"012"


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (os.mkfifo, "is a FIFO"),
        (Path.mkdir, "is a folder"),
        (lambda path: path.symlink_to("/dev/zero"), "is a device"),
        (lambda path: path.symlink_to("nowhere"), "does not exist"),
        (lambda path: path.symlink_to(path), "cannot be read"),
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_data_that_is_no_regular_file_is_named_as_what_it_is(
    tmp_path: Path, make: Callable[[Path], None], what: str, kind: str
) -> None:
    path = tmp_path / f"data.{kind}"
    make(path)
    with pytest.raises(UserError, match=what):
        list(read_dataset(kind, path, dataset="d"))


@pytest.mark.parametrize(("make", "what"), [(os.mkfifo, "a FIFO (a named pipe)"), (Path.mkdir, "a folder")])
def test_an_image_that_is_no_regular_file_is_rejected_as_what_it_is(
    tmp_path: Path, make: Callable[[Path], None], what: str
) -> None:
    make(tmp_path / "a.png")
    sample = Sample(id="1", dataset="d", question="q", harmful=True, image="a.png", line=1)
    (row,) = screen([sample], images=tmp_path)
    assert isinstance(row, Rejected)
    assert row.reason == f"image 'a.png' in {tmp_path} is {what}, not a regular file; correct the name."


@pytest.mark.parametrize("make", [os.mkfifo, Path.touch])
def test_an_image_folder_that_is_none_is_named_as_what_it_is(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "images")
    with pytest.raises(
        UserError, match=r"is (a FIFO \(a named pipe\)|a file), not a folder; correct the path"
    ):
        list(screen([], images=tmp_path / "images"))


@pytest.fixture
def locked() -> Iterator[Path]:
    """A folder without permissions in one that anybody may read, and this process not root."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        folder = Path(place) / "locked"
        folder.mkdir(mode=0)
        if user == 0:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            os.seteuid(user)
            folder.chmod(0o755)


def test_what_nobody_may_read_is_not_said_to_be_missing(locked: Path) -> None:
    sample = Sample(id="1", dataset="d", question="q", harmful=True, image="locked/a.png", line=1)
    (row,) = screen([sample], images=locked.parent)
    assert isinstance(row, Rejected)
    assert "cannot be read (Permission denied)" in row.reason
    for kind in ("parquet", "mm-safetybench", "jsonl"):
        for path in (locked, locked / "a.png"):
            with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
                list(read_dataset(kind, path, dataset="d", images=locked.parent))
    with pytest.raises(UserError, match=r"image folder .* cannot be read \(Permission denied\)"):
        list(screen([], images=locked / "a.png"))


@pytest.mark.parametrize("name", ["a" * 400, "a\0b", "a\nb", "a/" * 3000])
def test_a_name_that_no_file_has_is_one_short_line(name: str) -> None:
    with pytest.raises(UserError) as caught:
        open_regular(Path(name))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_text_that_is_not_utf_8_is_reported_with_its_line() -> None:
    assert decode_text(b"\xef\xbb\xbfa\n", where="f") == "a\n"
    with pytest.raises(UserError, match=r"^f: line 3: is not UTF-8 \(byte 0xe9\)"):
        decode_text(b"a\nb\nc\xe9\n", where="f")


def test_a_table_of_fifty_thousand_columns_is_read_at_once(tmp_path: Path) -> None:
    names = ["question", *(f"column{number}" for number in range(50_000))]
    (tmp_path / "wide.csv").write_text(f"{','.join(names)}\n{','.join(['a'] * len(names))}\n")
    start = time.process_time()
    (row,) = read_dataset("csv", tmp_path / "wide.csv", dataset="d")
    assert not isinstance(row, Rejected)
    assert row.question == "a"
    (tmp_path / "wide.csv").write_text(f"{','.join([*names, 'column7'])}\n")
    with pytest.raises(UserError, match=r"column7 twice"):
        list(read_dataset("csv", tmp_path / "wide.csv", dataset="d"))
    assert time.process_time() - start < 5


@pytest.mark.parametrize("question", ["\u00a0", "\u200b\u2060\ufeff", "\u00ad\u3164 \n"])
def test_a_question_that_cannot_be_seen_is_an_empty_one(tmp_path: Path, question: str) -> None:
    import json

    (tmp_path / "own.jsonl").write_text(json.dumps({"question": question}) + "\n")
    (row,) = screen(read_dataset("jsonl", tmp_path / "own.jsonl", dataset="d"), images=None)
    assert isinstance(row, Rejected)
    assert row.reason == "empty question"


def test_text_with_anything_to_see_is_not_blank() -> None:
    for text in ("a", " \u200b!", "\U0001f937\u200d\u2640\ufe0f", "\u0644\u200c"):
        assert not is_blank(text)
    assert is_blank("")


def test_an_image_folder_that_is_a_file_is_named_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file is a file, not a folder"):
        list(screen([], images=tmp_path / "file"))
    with pytest.raises(UserError, match=r"gone does not exist"):
        list(screen([], images=tmp_path / "gone"))


def test_what_is_shown_is_printable_and_short() -> None:
    assert show("plain name") == "plain name"
    assert show("a\nb\x1b[31m\u202e") == "a\\nb\\x1b[31m\\u202e"
    for text in ("a" * 10**6, "\u202e" * 10**6):
        assert len(show(text)) <= 160
        assert show(text).isprintable()
    assert show_value("a") == "'a'"
    assert len(show_value(["a" * 10**5] * 10**5)) <= 160
    assert show_value(10**5000) == "a whole number of too many digits to show"
    assert show_names(["a", "b"]) == "a, b"
    assert show_names([str(number) for number in range(12)]).endswith("8, 9 and 2 more")

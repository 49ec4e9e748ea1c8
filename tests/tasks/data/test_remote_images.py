"""Images that rows name by URL become kept files in the order of the rows, and no URL is asked for twice in a run."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cmrm.errors import UserError
from cmrm.prompts.images import open_image
from cmrm.prompts.meaningless_images import noise_image
from cmrm.prompts.sample import Rejected, Sample
from storage.backends.http_limits import Limits
from tasks.data import remote_images
from tasks.data.remote_images import RemoteImages
from tasks.data.sources import Source, survey
from tests.file_server import FileServer, serve_files, wait

QUICK = Limits(connect=2, read=0.5, pause=0.01, longest_pause=0.05)


def make_png(seed: int) -> bytes:
    stream = io.BytesIO()
    noise_image(size=16, seed=seed).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(remote_images, "LIMITS", QUICK)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with serve_files() as server:
        yield server


def make_source(folder: Path, rows: list[Mapping[str, Any]], **changes: Any) -> Source:
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    made = Source(
        dataset="mine",
        format="jsonl",
        path=path,
        images=None,
        options={},
        fraction=0.0,
        kept=folder / "kept",
        run="one",
    )
    return dataclasses.replace(made, **changes)


def read_images(source: Source) -> list[str | None]:
    """The image of each row, or the reason why it has none."""
    return [row.reason if isinstance(row, Rejected) else row.image for row in source.read({})]


def test_images_are_kept_by_their_content_in_the_order_of_the_rows(
    server: FileServer, tmp_path: Path
) -> None:
    pictures = [make_png(seed) for seed in range(20)]
    # The first is the slowest.
    urls = [
        server.put(f"/{number}.png", picture, before_end=wait(0.2 if number == 0 else 0.01))
        for number, picture in enumerate(pictures)
    ]
    rows = [{"question": f"What is {number}?", "image": url} for number, url in enumerate(urls)]
    rows.insert(3, {"question": "And without?"})
    source = make_source(tmp_path, rows)
    found = [row for row in source.read({}) if isinstance(row, Sample)]
    assert [row.question for row in found] == [row["question"] for row in rows]
    assert found.pop(3).image is None
    for row, picture in zip(found, pictures, strict=True):
        assert row.image is not None
        assert (tmp_path / "kept" / row.image).read_bytes() == picture
        assert open_image(tmp_path / "kept", row.image).size == (16, 16)
    assert 1 < server.most_at_once <= remote_images.AT_ONCE
    # Not asked for again: not by the next reading, nor for another row.
    assert read_images(source).count(None) == 1
    assert set(server.asked.values()) == {1}


def test_ids_and_digests_are_of_the_content_and_not_of_the_url(server: FileServer, tmp_path: Path) -> None:
    surveys = []
    for place in ("/a/1.png", "/other/x"):
        folder = tmp_path / place.replace("/", "-")
        folder.mkdir()
        surveys.append(
            survey(make_source(folder, [{"question": "What?", "image": server.put(place, make_png(1))}]), {})
        )
    held = tmp_path / "held"
    held.mkdir()
    inside = f"data:image/png;base64,{base64.b64encode(make_png(1)).decode()}"
    surveys.append(survey(make_source(held, [{"question": "What?", "image": inside}]), {}))
    assert surveys[0] == surveys[1] == surveys[2]
    other = tmp_path / "other"
    other.mkdir()
    changed = [{"question": "What?", "image": server.put("/b.png", make_png(2))}]
    assert survey(make_source(other, changed), {}).digest != surveys[0].digest


def test_a_row_whose_image_cannot_be_fetched_is_quarantined_with_the_reason_and_the_others_continue(
    server: FileServer, tmp_path: Path
) -> None:
    good = server.put("/good.png", make_png(1))
    bad = {
        "/none.png": r"/none\.png: 127\.0\.0\.1 answers 404 (Not Found)",
        "/text.png": "its image cannot be used",
        "/half.png": "its image cannot be used",
        "/away.png": "redirects to file://",
        "/down.png": "answers 503",
    }
    server.put("/text.png", b"<html>not an image</html>")
    server.put("/half.png", make_png(2)[:-30])
    server.put("/away.png", statuses=(302,), headers={"Location": "file:///etc/passwd"})
    server.put("/down.png", statuses=(503,))
    rows: list[dict[str, str]] = [{"id": "first", "question": "q", "image": good}]
    rows += [{"id": path, "question": "q", "image": f"{server.url}{path}"} for path in bad]
    rows += [{"id": "plain", "question": "q", "image": "http://example.com/a.png"}]
    rows += [{"id": "last", "question": "q", "image": good}]
    source = make_source(tmp_path, rows)
    found = list(source.read({}))
    assert [row.id for row in found] == [row["id"] for row in rows]
    assert isinstance(found[0], Sample)
    assert isinstance(found[-1], Sample)
    for row, said in zip(found[1:], [*bad.values(), "plain http"], strict=False):
        if row.id != "last":
            assert isinstance(row, Rejected)
            assert said.replace("\\", "") in row.reason


def test_what_could_not_be_had_is_asked_for_again_by_the_next_run_alone(
    server: FileServer, tmp_path: Path
) -> None:
    url = server.put("/late.png", make_png(1), statuses=(404, 200))
    source = make_source(tmp_path, [{"question": "q", "image": url}])
    assert "404" in str(read_images(source)[0])
    assert read_images(source) == read_images(source)
    # The job that ingests reads what its plan has read.
    job = dataclasses.replace(source, images=tmp_path / "kept", asking="nobody")
    assert "404" in str(read_images(job)[0])
    assert server.asked["/late.png"] == 1
    (name,) = read_images(dataclasses.replace(source, run="two"))
    assert name is not None
    assert read_images(job) == [name]
    assert server.asked["/late.png"] == 2


def test_a_job_whose_images_are_gone_says_so_and_asks_nobody(server: FileServer, tmp_path: Path) -> None:
    source = make_source(tmp_path, [{"question": "q", "image": server.put("/a.png", make_png(1))}])
    (name,) = read_images(source)
    assert name is not None
    (tmp_path / "kept" / name).unlink()
    job = dataclasses.replace(source, images=tmp_path / "kept", asking="nobody")
    with pytest.raises(
        UserError, match=r"datasets\.mine: the image .*/a\.png was fetched by the plan and is not in"
    ):
        read_images(job)
    assert read_images(source) == [name]
    assert server.asked["/a.png"] == 2


SECRET = "geheimnis-4711"


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{SECRET}@example.com/a.png",
        f"https://example.com/a.png?X-Amz-Signature={SECRET}",
        f"https://example.com/a.png?sv=1&sig={SECRET}",
        f"s3://key:{SECRET}@bucket/a.png",
    ],
)
def test_a_url_with_a_secret_quarantines_its_row_and_is_not_shown(tmp_path: Path, url: str) -> None:
    (row,) = make_source(tmp_path, [{"id": "1", "question": "q", "image": url}]).read({})
    assert isinstance(row, Rejected)
    assert row.id == "1"
    assert "holds a user, a password or a signature" in row.reason
    assert SECRET not in repr(row)
    assert not [path for path in tmp_path.rglob("*.json") if SECRET in path.read_text()]


@pytest.mark.parametrize(
    "line",
    [
        f'{{"id": "1", "question": "q", "image": ["https://h/a.png?sig={SECRET}", "b.png"]}}',
        f'{{"id": "1", "question": "q", "question": "q", "image": "https://h/a.png?sig={SECRET}"}}',
        f'{{"id": "1", "question": "q", "image": "https://h/a.png?sig={SECRET}"',
        f'{{"id": "1", "question": [1, 2], "more": {{"url": "https:\\/\\/h\\/a.png?token={SECRET}"}}}}',
    ],
)
def test_a_row_that_is_quarantined_for_another_reason_shows_no_secret_either(
    tmp_path: Path, line: str
) -> None:
    source = make_source(tmp_path, [])
    source.path.write_text(line + "\n")
    (row,) = source.read({})
    assert isinstance(row, Rejected)
    assert SECRET not in repr(row)


def test_rows_of_the_internet_cannot_make_this_machine_ask_others_of_its_network(
    server: FileServer, tmp_path: Path
) -> None:
    rows = [{"question": "q", "image": server.put("/a.png", make_png(1))}]
    theirs = make_source(tmp_path, rows, url="https://example.com/rows.jsonl")
    assert "no address of the internet" in str(read_images(theirs)[0])
    assert server.asked["/a.png"] == 0
    # The spec's own host, and the rows of a file of this machine, may name it.
    assert RemoteImages(folder=tmp_path, origin=f"{server.url}/rows.jsonl").reach(rows[0]["image"]) == "any"
    assert (
        RemoteImages(folder=tmp_path, origin="https://10.0.0.1/rows.jsonl").reach("https://10.0.0.1/a")
        == "any"
    )
    assert read_images(make_source(tmp_path, rows, run="two"))[0] is not None


def test_names_are_found_in_a_remote_folder(server: FileServer, tmp_path: Path) -> None:
    server.put("/images/street/1.png", make_png(1))
    rows = [
        {"question": "q", "image": "street/1.png"},
        {"question": "q", "image": "../rows.jsonl"},
        {"question": "q"},
    ]
    source = make_source(tmp_path, rows, images_url=f"{server.url}/images/")
    name, reason, none = read_images(source)
    assert (tmp_path / "kept" / str(name)).read_bytes() == make_png(1)
    assert "no name of a file inside" in str(reason)
    assert none is None


def test_other_schemes_are_names_as_before(tmp_path: Path) -> None:
    for url in ("file:///etc/passwd", "ftp://example.com/a.png"):
        assert read_images(make_source(tmp_path, [{"question": "q", "image": url}])) == [url]


def test_a_host_that_does_not_answer_is_given_up(server: FileServer, tmp_path: Path) -> None:
    urls = [server.put(f"/{number}.png", statuses=(503,)) for number in range(40)]
    rows = [{"question": f"q{number}", "image": url} for number, url in enumerate(urls)]
    reasons = read_images(make_source(tmp_path, rows))
    assert sum("answers 503" in str(reason) for reason in reasons) >= remote_images.MOST_SILENT
    assert "did not answer 5 times in a row" in str(reasons[-1])
    asked = sum(server.asked.values())
    assert asked <= (remote_images.MOST_SILENT + remote_images.AT_ONCE) * QUICK.attempts


def test_offline_only_images_that_are_kept_are_used(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = [{"question": "q", "image": "https://example.com/a.png"}]
    (reason,) = read_images(make_source(tmp_path, rows))
    assert "HF_HUB_OFFLINE is set" in str(reason)


def test_parquet_and_csv_rows_name_urls_as_well(server: FileServer, tmp_path: Path) -> None:
    url = server.put("/a.png", make_png(1))
    cell = {"bytes": None, "path": url}
    pq.write_table(pa.Table.from_pylist([{"question": "q", "image": cell}]), tmp_path / "rows.parquet")
    (tmp_path / "rows.csv").write_text(f"question,image\nq,{url}\n")
    (tmp_path / "rows.json").write_text(json.dumps([{"question": "q", "image": [url]}]))
    names = set()
    for suffix in ("parquet", "csv", "json"):
        source = make_source(tmp_path, [], format=suffix, path=tmp_path / f"rows.{suffix}")
        names.update(read_images(source))
    assert len(names) == 1
    assert open_image(tmp_path / "kept", str(names.pop())).size == (16, 16)

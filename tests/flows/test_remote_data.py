"""A run on files and images behind URLs is the run on the same ones on a disk, also after a kill."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cmrm.errors import UserError
from flows.plan.sources import fetch_files
from flows.spec.spec import read_spec
from storage.maintenance.inventory import take_inventory
from storage.sql.database import connect
from storage.store import Store
from tests.file_server import FileServer, serve_files
from tests.flows.shared_runs import run_plainly
from tests.flows.test_kill import run_forked_until
from tests.forked import Forker

ANSWERS = """
    SELECT s.dataset, s.question, r.condition, r.intervention, r.answer, s.image_digest
    FROM responses r JOIN samples s USING (dataset, sample_id) ORDER BY ALL
"""
SECRET = "geheimnis-4711"


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve_files() as server:
        yield server


def put_behind_urls(spec: Path, server: FileServer) -> None:
    """Let the spec name its files by URLs, and the rows of its own data set their images too."""
    folder = spec.parent
    fields = yaml.safe_load(spec.read_text())
    rows = [json.loads(line) for line in (folder / "own.jsonl").read_text().splitlines()]
    for image in (folder / "images").iterdir():
        server.put(f"/images/{image.name}", image.read_bytes())
    rows = [row | {"image": f"{server.url}/images/{row['image']}"} for row in rows]
    rows += [
        {"id": "gone", "question": "What is gone?", "image": f"{server.url}/images/gone.png"},
        {"id": "signed", "question": "What is it?", "image": f"https://example.com/1.png?sig={SECRET}"},
    ]
    text = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    own = {
        "format": "jsonl",
        "path": server.put("/own.jsonl", text, headers={"ETag": '"1"'}),
        "harmful": False,
    }
    examine = server.put("/examine.jsonl", (folder / "examine.jsonl").read_bytes())
    vlsafe = {**fields["datasets"]["vlsafe"], "path": examine}
    spec.write_text(yaml.safe_dump({**fields, "datasets": {"vlsafe": vlsafe, "own": own}}))


def read(store: Path, query: str) -> list[tuple[Any, ...]]:
    with connect(store) as sql:
        return sql.sql(query).fetchall()


def test_a_run_on_urls_that_was_killed_ends_as_one_on_files_and_asks_for_each_image_once(
    llava_folder: Path,
    tmp_path: Path,
    write_short_spec: Callable[..., Path],
    forker: Forker,
    server: FileServer,
) -> None:
    spec = write_short_spec(tmp_path / "data", llava_folder)
    run_plainly(spec, tmp_path / "files")
    put_behind_urls(spec, server)
    store = tmp_path / "remote"
    assert run_forked_until(forker, "within generate", spec, store) == -signal.SIGKILL
    assert run_forked_until(forker, "never", spec, store) == 0
    assert read(store, ANSWERS) == read(tmp_path / "files", ANSWERS) != []

    names = [f"/images/{number}.png" for number in range(4)]
    assert [server.asked[name] for name in names] == [1, 1, 1, 1]
    # Once for each command: what could not be had may be there by then.
    assert server.asked["/images/gone.png"] == 2
    assert server.asked["/own.jsonl"] == server.asked["/examine.jsonl"] == 2
    reasons = dict(read(store, "SELECT DISTINCT sample_id, reason FROM quarantine WHERE stage = 'ingest'"))
    assert reasons.keys() == {"gone", "signed"}
    assert "127.0.0.1 answers 404 (Not Found)" in reasons["gone"]
    assert "holds a user, a password or a signature" in reasons["signed"]
    assert not [path for path in store.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    # The record names the files as the spec does, and the images count as the store's.
    records = [path.read_text() for path in (store / "runs").iterdir()]
    assert records
    assert all(f"{server.url}/own.jsonl" in record for record in records)
    found = take_inventory(Store.open(store))
    assert len(found.images) == 4 + 5
    assert not found.foreign


def test_a_file_that_cannot_be_had_costs_one_line_that_names_its_field(
    llava_folder: Path, tmp_path: Path, write_short_spec: Callable[..., Path], server: FileServer
) -> None:
    spec = write_short_spec(tmp_path / "data", llava_folder)
    put_behind_urls(spec, server)
    server.put("/own.jsonl", statuses=(404,))
    with pytest.raises(
        UserError, match=r"^datasets\.own\.path: http://127[^\n]* answers 404 \(Not Found\)\.$"
    ):
        fetch_files(read_spec(spec).datasets)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"path": "http://example.com/own.jsonl"}, r"datasets\.own\.path .*plain http.*give https://"),
        ({"path": "https://me:pw@example.com/own.jsonl"}, r"datasets\.own\.path: a URL in it holds a user"),
        (
            {"images": "https://example.com/", "pair_with": "c.json"},
            r"pair_with and clip choose among images",
        ),
        ({"images": "https://example.com/", "format": "vlsafe"}, "the format vlsafe reads a folder"),
        ({"path": 7}, r"datasets\.own\.path \(it is 7\): Input is not a valid path"),
    ],
)
def test_a_url_that_is_not_fetched_is_a_mistake_of_one_line(
    tmp_path: Path, write_short_spec: Callable[..., Path], changed: dict[str, Any], said: str
) -> None:
    spec = write_short_spec(tmp_path / "data", tmp_path)
    fields = yaml.safe_load(spec.read_text())
    fields["datasets"]["own"] = {"format": "jsonl", "path": "own.jsonl", **changed}
    spec.write_text(yaml.safe_dump(fields))
    with pytest.raises(UserError, match=said) as raised:
        read_spec(spec)
    assert len(str(raised.value).splitlines()) == 1


def test_urls_stay_as_they_are_written_also_in_the_record(
    tmp_path: Path, write_short_spec: Callable[..., Path]
) -> None:
    spec = write_short_spec(tmp_path / "data", tmp_path)
    url = "https://example.com/a//b.jsonl?download=true"
    fields = yaml.safe_load(spec.read_text())
    fields["datasets"]["own"] = {"format": "jsonl", "path": url, "images": "s3://bucket/images"}
    spec.write_text(yaml.safe_dump(fields))
    read_back = read_spec(spec)
    assert read_back.datasets["own"].path == url
    written = read_back.model_dump(mode="json", by_alias=True)["datasets"]
    assert (written["own"]["path"], written["own"]["images"]) == (url, "s3://bucket/images")
    assert written["vlsafe"]["path"] == str(tmp_path / "data" / "examine.jsonl")

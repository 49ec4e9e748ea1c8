"""Where an export may be written, and what is left where its disk is full."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from cmrm.errors import UserError
from cmrm.export import FORMATS
from cmrm.export.writer import refuse_inside, replace_card, write_export
from cmrm.new_folder import make_hidden_folder, refuse_used, write_new_folder
from tests.cmrm.export.conftest import make_request

CHECKPOINT = FORMATS.make("checkpoint")


def test_a_new_and_an_empty_folder_are_taken_below_folders_that_are_not_there_yet_too(tmp_path):
    (tmp_path / "empty").mkdir()
    for output in (tmp_path / "empty", tmp_path / "new", tmp_path / "a" / "b" / "c"):
        refuse_used(output)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_what_a_finished_folder_cannot_replace_is_refused_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name, said in {
        "file": "is there already",
        "dangling": "is there already",
        "link": "is a link",
        "file/below": "takes no files",
    }.items():
        with pytest.raises(UserError, match=said):
            refuse_used(tmp_path / name)
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UserError, match="working folder"):
        refuse_used(tmp_path / "empty")
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path) == str(tmp_path / "mounted"))
    (tmp_path / "mounted").mkdir()
    with pytest.raises(UserError, match="mount point"):
        refuse_used(tmp_path / "mounted")


def test_a_folder_in_the_models_own_is_refused_through_links_too(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "model")
    for output in (tmp_path / "model", tmp_path / "model" / "out", tmp_path / "link" / "a" / "out"):
        with pytest.raises(UserError, match="inside the model's own folder"):
            refuse_inside(output, tmp_path / "model")
    refuse_inside(tmp_path / "model-steered", tmp_path / "model")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "cannot be written (No space left on device)"),
        (SafetensorError("Error while serializing: I/O error"), "cannot be written (Error while serializing"),
        (
            FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/gone/model.safetensors"),
            "cannot be finished: /gone/model.safetensors (No such file or directory)",
        ),
    ],
)
def test_a_full_disk_costs_a_line_and_leaves_nothing(backbone_folder, tmp_path, monkeypatch, error, said):
    def fail(_own, _request, folder):
        (folder / "half").write_text("half")
        raise error

    monkeypatch.setattr(type(CHECKPOINT), "write", fail)
    with pytest.raises(UserError, match=re.escape(said)):
        write_export(
            make_request(backbone_folder("llama")),
            CHECKPOINT,
            None,
            output=tmp_path / "out",
            describe=lambda *_: "",
        )
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from cmrm.new_folder import make_hidden_folder
with make_hidden_folder(Path(sys.argv[1]), kind=sys.argv[2]) as folder:
    (folder / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["partial", "sweep"])
def test_what_a_killed_export_left_is_removed_by_the_next_to_its_name_and_by_no_other(tmp_path, kind):
    output = tmp_path / "out [1]"
    done = subprocess.run([sys.executable, "-c", KILLED, output, kind], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert (left / "half").exists()
    mine = [tmp_path / f"{left.name}.mine", tmp_path / ".out [1].backup-20261130"]
    for one in mine:
        one.mkdir()
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / ".out [1].partial-00000000"
    link.symlink_to(tmp_path / "elsewhere")
    with write_new_folder(tmp_path / "other"):
        assert left.exists()
    with write_new_folder(output) as folder:
        (folder / "whole").write_text("whole")
    kept = {output, tmp_path / "other", tmp_path / "elsewhere", link, *mine}
    assert set(tmp_path.iterdir()) == kept
    assert (output / "whole").exists()


def test_an_export_that_goes_on_loses_nothing_to_another_to_the_same_name(tmp_path):
    with write_new_folder(tmp_path / "out") as first:
        (first / "whole").write_text("whole")
        with make_hidden_folder(tmp_path / "out", kind="partial") as second:
            assert second.exists()
            assert (first / "whole").exists()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["whole"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_card_that_cannot_be_written_anew_stays_as_it_was(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("the first card")
    replace_card(tmp_path, "the second card")
    assert (tmp_path / "README.md").read_text() == "the second card"
    write_text = Path.write_text

    def write_half(path, text, **more):
        write_text(path, text[:5], **more)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", write_half)
    with pytest.raises(UserError, match="No space left on device"):
        replace_card(tmp_path, "the third card")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"README.md": "the second card"}

"""`cmrm export --push`: upload a finished export to the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cmrm.errors import UserError
from cmrm.untrusted.printable import first_line, show

MESSAGE = "Upload a steered model exported by cmrm"


def check_repository(name: str) -> None:
    """Raise `UserError` for a name that the hub does not take, before anything is written."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"--push {show(name)}: {first_line(error)}") from None
    if "/" not in name:
        raise UserError(f"--push {show(name)}: give OWNER/NAME.")


def list_upload(folder: Path) -> list[tuple[str, int]]:
    """List the files of an upload with their sizes in bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in files]


def push(folder: Path, name: str, *, say: Callable[[str], None]) -> None:
    """Create a private repository, unless it is there, and upload the folder in one commit.

    The token is the hub's own: HF_TOKEN, or that of `hf auth login`. Raises `UserError` if the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    hub = HfApi()
    try:
        made = hub.create_repo(name, repo_type="model", private=True, exist_ok=True)
        done = hub.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message=MESSAGE)
    except (HTTPError, OSError, ValueError) as error:
        raise UserError(
            f"--push {show(name)}: the hub refuses it ({show(first_line(error))}). Log in (hf auth login, or HF_TOKEN) "
            f"and upload the finished export: hf upload {name} {folder}"
        ) from None
    say(f"Pushed: {done.commit_url}")

"""`cmrm export --push`: upload a finished export to the Hugging Face hub."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from cmrm.errors import UserError
from cmrm.untrusted.printable import first_line, show

# What a repository is, as the hub names it.
Kind = Literal["model", "dataset"]
MESSAGES: Mapping[Kind, str] = MappingProxyType(
    {
        "model": "Upload a steered model exported by cmrm",
        "dataset": "Upload the answers and verdicts of a run, exported by cmrm",
    }
)


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


def refuse_public(name: str, *, kind: Kind) -> None:
    """Raise `UserError` for a repository that is there and that anybody can read, and if the hub does not answer."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError, RepositoryNotFoundError

    try:
        found = HfApi().repo_info(name, repo_type=kind)
    except RepositoryNotFoundError:
        return  # a new one is made private
    except (HTTPError, OSError, ValueError) as error:
        raise UserError(
            f"--push {show(name)}: the hub does not say who can read it ({show(first_line(error))}). Log in (hf auth "
            "login, or HF_TOKEN), or leave --push out and upload the folder later."
        ) from None
    if not found.private and not found.gated:
        raise UserError(
            f"--push {show(name)}: the repository is public, and --include-harmful would publish harmful text; make "
            "it private or gated on the hub, name a new one, or leave --include-harmful out."
        )


def list_upload(folder: Path) -> list[tuple[str, int]]:
    """List the files of an upload with their sizes in bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in files]


def push_or_list(
    folder: Path,
    name: str,
    *,
    kind: Kind,
    dry_run: bool,
    say: Callable[[str], None],
    replaced: Sequence[str] = (),
) -> None:
    """Upload a finished export, or say what would be uploaded; raises `UserError` as `push` does."""
    if not dry_run:
        push(folder, name, kind=kind, say=say, replaced=replaced)
        return
    say(f"Would be uploaded to {name}:")
    for file, size in list_upload(folder):
        say(f"  {size:>15,}  {file}")


def push(
    folder: Path, name: str, *, kind: Kind, say: Callable[[str], None], replaced: Sequence[str] = ()
) -> None:
    """Create a private repository, unless it is there, and upload the folder in one commit.

    Files of the repository that match a pattern in `replaced` and are not in the folder are deleted by it. The token is
    the hub's own: HF_TOKEN, or that of `hf auth login`. Raises `UserError` if the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    hub = HfApi()
    try:
        made = hub.create_repo(name, repo_type=kind, private=True, exist_ok=True)
        done = hub.upload_folder(
            repo_id=made.repo_id,
            repo_type=kind,
            folder_path=folder,
            commit_message=MESSAGES[kind],
            delete_patterns=[*replaced],
        )
    except (HTTPError, OSError, ValueError) as error:
        raise UserError(
            f"--push {show(name)}: the hub refuses it ({show(first_line(error))}). Log in (hf auth login, or HF_TOKEN) "
            f"and upload the finished export: hf upload {name} {shlex.quote(str(folder))} . --repo-type {kind}"
        ) from None
    say(f"Pushed: {done.commit_url}")

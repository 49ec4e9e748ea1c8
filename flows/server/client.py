"""The Prefect server that a run talks to: kept quiet, found or started, and put in force."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from http import HTTPStatus
from pathlib import Path

from cmrm.errors import UserError
from flows.errors import ServerLostError
from flows.server.embedded import EmbeddedServer, answers
from storage.paths import cache_folder

# Prefect's own lines would break the bars; they still reach its log files and its API. What a user has set stays.
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # What was reused, and why anything ran, is part of a run's log in Prefect's interface.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "cmrm",
}


# Variables that name a server, or a file that may.
NAMING = {"PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"}

Ready = Callable[[], AbstractContextManager[None]]


def quiet_prefect() -> None:
    """Set what keeps Prefect and others quiet, before they are imported; what a user has set stays."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    show_own_logs()


def show_own_logs() -> None:
    """Let this project's loggers pass on what a run did, which Prefect shows beside its own lines."""
    own = logging.getLogger("cmrm")
    if own.level == logging.NOTSET:
        own.setLevel(logging.INFO)


def find_server(server: str | None) -> str | None:
    """The URL of `server`, else of the Prefect server that the user has set up; None where there is neither."""
    if server or not _is_prefect_configured():
        return server or None
    from prefect.settings import PREFECT_API_URL

    return PREFECT_API_URL.value()


def _is_prefect_configured() -> bool:
    """Whether anything may name a server, without the seconds that importing Prefect takes.

    Looks where Prefect 3.8 does (prefect/settings/sources.py): its variables, .env, prefect.toml and pyproject.toml of
    the working directory, and the user's profiles; and is true where another part of this process has Prefect already.
    """
    # Prefect takes its variables in any case.
    if "prefect" in sys.modules or NAMING & {name.upper() for name in os.environ}:
        return True
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    mentions = {
        Path(".env"): b"PREFECT_",
        Path("pyproject.toml"): b"tool.prefect",
        Path("prefect.toml"): b"",
        home / "profiles.toml": b"PREFECT_",
    }
    return any(_mentions(path, text) for path, text in mentions.items())


def _mentions(path: Path, text: bytes) -> bool:
    try:
        return path.is_file() and text.upper() in path.read_bytes().upper()
    except OSError:
        # Prefect says what is wrong with a file that it cannot read.
        return True


def reach_server(server: str | None) -> Ready:
    """Start towards the Prefect API at `server`, the one the user has set up, or an embedded one, at once.

    What is returned waits for it and puts it in force. Raises `UserError` where none answers.
    """
    chosen = find_server(server)
    embedded = None if chosen else EmbeddedServer(log=cache_folder() / "prefect-server.log")
    if embedded is not None:
        embedded.start()
    elif chosen is not None:
        check_server(chosen)

    @contextmanager
    def ready() -> Iterator[None]:
        if embedded is not None:
            embedded.wait()
        with use_server(embedded.url if embedded else str(chosen)):
            yield

    return ready


@contextmanager
def told_of_a_lost_server() -> Iterator[None]:
    """Turn what Prefect raises when its server fails in the middle of the body into a `ServerLostError`.

    What the server refuses, in good health, becomes a `UserError` with its words.
    """
    import httpx
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        yield
    except (httpx.HTTPError, PrefectHTTPStatusError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        where = show_url(find_server(None) or "")
        refused = isinstance(error, httpx.HTTPStatusError) and not error.response.is_server_error
        if refused:
            raise UserError(
                f"Prefect's server at {where} refused what the run asked of it: {error}"
            ) from error
        raise ServerLostError(
            f"Prefect's server at {where} fails or does not answer any more ({reason}). Start it again, "
            "then give the same command: what is finished is kept, and goes on without the server's history too."
        ) from error


def show_url(url: str) -> str:
    """A URL without the user and password that may stand in it."""
    return re.sub(r"//[^/@]*@", "//", url)


@contextmanager
def use_server(url: str) -> Iterator[None]:
    """Let Prefect talk to the server at a URL, in this thread, in all others and in processes that are started."""
    name = "PREFECT_API_URL"
    earlier = os.environ.get(name)
    os.environ[name] = url
    # Prefect reads its variables when it is imported; where it was before, it has to read them again.
    from prefect.context import refresh_global_settings_context
    from prefect.settings import PREFECT_API_URL, temporary_settings

    if not _is_in_force(url):
        # Threads of Prefect's own have no context; without a URL each would start one more server.
        refresh_global_settings_context()
    try:
        with nullcontext() if _is_in_force(url) else temporary_settings({PREFECT_API_URL: url}):
            yield
    finally:
        del os.environ[name]
        if earlier is not None:
            os.environ[name] = earlier
        if earlier != url:
            refresh_global_settings_context()


def _is_in_force(url: str) -> bool:
    """Whether Prefect talks to the URL as it is, in this thread and in those without settings of their own."""
    from prefect import context
    from prefect.settings import PREFECT_API_URL

    everywhere = context.GLOBAL_SETTINGS_CONTEXT
    return PREFECT_API_URL.value() == url and everywhere is not None and everywhere.settings.api.url == url


def check_server(url: str) -> None:
    """Raise `UserError` unless a Prefect API answers at the URL and lets this user in."""
    if not answers(url):
        raise UserError(
            f"no Prefect server answers at {show_url(url)}. Start one (prefect server start), correct --server or "
            "PREFECT_API_URL (it ends in /api), or leave both out to run with an embedded one."
        )
    if not _admits(url):
        raise UserError(
            f"the Prefect server at {show_url(url)} asks who is there and does not know the answer. Set "
            "PREFECT_API_AUTH_STRING=user:password as the server has it in PREFECT_SERVER_API_AUTH_STRING."
        )


def _admits(url: str) -> bool:
    """Whether the server takes what Prefect's client sends; health alone is told to anyone."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.settings import PREFECT_API_URL, temporary_settings

    asked = nullcontext() if _is_in_force(url) else temporary_settings({PREFECT_API_URL: url})
    with asked, get_client(sync_client=True) as client:
        try:
            client.api_version()
        except PrefectHTTPStatusError as error:
            return error.response.status_code not in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
        except (httpx.HTTPError, ValueError) as error:
            raise UserError(
                f"what answers at {show_url(url)} is no Prefect server ({str(error).splitlines()[0]}). "
                "Correct --server or PREFECT_API_URL: it ends in /api."
            ) from error
    return True

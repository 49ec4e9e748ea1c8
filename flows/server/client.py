"""Find or start the Prefect server of a run, check its credentials, and point Prefect's client at it."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from http import HTTPStatus
from pathlib import Path

from cmrm.errors import UserError
from flows.server.embedded import EmbeddedServer, answers, poll_health
from flows.server.monitor import (
    ANSWER_SECONDS,
    ServerMonitor,
    explain_loss,
    monitor_in_force,
    when_lost,
)
from flows.server.settings import override_settings
from flows.spec.secrets import refuse_credentials
from storage.backends.writable import check_writable
from storage.records.layout import cache_folder

# Prefect's console logs would break the progress bars; they still reach its log files and API. User settings win.
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A second run in a process looks up its results outside a flow, which Prefect would warn of.
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # Cache hits and the causes of cache misses belong in a run's log in Prefect's UI.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "cmrm",
}


# Variables that name a server, or a profile that may name one.
NAMING = {"PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"}

# Variables that override the database in PREFECT_HOME.
DATABASES = {"PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL"}
_AUTH_FIX = "leave it out, and set PREFECT_API_AUTH_STRING=user:password"

Ready = Callable[[], AbstractContextManager[None]]


def quiet_prefect() -> None:
    """Silence console logging and telemetry of Prefect and others before they are imported; user settings win."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    show_own_logs()


def show_own_logs() -> None:
    """Set this project's loggers to INFO, so that Prefect shows their lines in a run's log."""
    own = logging.getLogger("cmrm")
    if own.level == logging.NOTSET:
        own.setLevel(logging.INFO)


def find_server(server: str | None) -> str | None:
    """Return `server`, else the URL of the configured Prefect server; None if there is neither.

    Raises `UserError` for a URL with credentials.
    """
    if server:
        refuse_credentials(server, where="--server", fix=_AUTH_FIX)
    if server or not _is_prefect_configured():
        return server or None
    from prefect.settings import PREFECT_API_URL

    found = PREFECT_API_URL.value()
    if found:
        refuse_credentials(found, where="PREFECT_API_URL", fix=_AUTH_FIX)
    return found


def _is_prefect_configured() -> bool:
    """Whether anything may name a server, without the seconds that importing Prefect takes.

    Checks the sources of Prefect 3.8 (prefect/settings/sources.py): its variables, .env, prefect.toml and
    pyproject.toml of the working directory, and the user's profiles; also true if Prefect is imported already.
    """
    # Prefect's variables are case-insensitive.
    if "prefect" in sys.modules or NAMING & {name.upper() for name in os.environ}:
        return True
    home = _prefect_home()
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
        # Let Prefect report a file that it cannot read.
        return True


def reach_server(server: str | None) -> Ready:
    """Check the Prefect API at `server` or the configured one, or begin to start an embedded server.

    The returned context waits for the server and points Prefect at it. Raises `UserError` if none answers.
    """
    chosen = find_server(server)
    embedded = None if chosen else EmbeddedServer(log=cache_folder() / "prefect-server.log")
    if embedded is not None:
        _check_folders()
        embedded.start()
    elif chosen is not None:
        check_server(chosen)

    @contextmanager
    def ready() -> Iterator[None]:
        if embedded is not None:
            embedded.wait()
        url = embedded.url if embedded else str(chosen)
        with use_server(url), _without_heartbeats(embedded), _watch_server(url, embedded):
            yield

    return ready


def _check_folders() -> None:
    """Raise `StoreError` if an embedded server could not write its log or database: it would retry for long."""
    check_writable("CMRM_CACHE", cache_folder())
    if not DATABASES & {name.upper() for name in os.environ}:
        check_writable("PREFECT_HOME", _prefect_home())


def _prefect_home() -> Path:
    named = Path(os.environ.get("PREFECT_HOME") or "~/.prefect")
    try:
        return named.expanduser()
    except RuntimeError:
        return named  # `~name` of an unknown user


@contextmanager
def _watch_server(url: str, embedded: EmbeddedServer | None) -> Iterator[None]:
    """Monitor the server's health while the body runs; the stages of a run query the monitor."""
    monitor = ServerMonitor(
        partial(poll_health, url, seconds=ANSWER_SECONDS),
        where=show_url(url),
        embedded=embedded,
        leave=when_lost.get(),
    )
    token = monitor_in_force.set(monitor)
    try:
        with monitor.watching():
            yield
    finally:
        monitor_in_force.reset(token)


def _without_heartbeats(embedded: EmbeddedServer | None) -> AbstractContextManager[object]:
    """Turn off Prefect's flow heartbeats for an embedded server: stopping them takes up to a second."""
    if embedded is None:
        return nullcontext()
    return override_settings({"flows": {"heartbeat_frequency": None}})


@contextmanager
def translate_server_errors() -> Iterator[None]:
    """Translate errors of Prefect's client in the body to `ServerLostError`.

    A 4xx response of a healthy server becomes a `UserError` with its message.
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
                f"the Prefect server at {where} rejected a request of the run: {error}"
            ) from error
        raise explain_loss(where, reason) from error


def show_url(url: str) -> str:
    """Remove user and password from a URL."""
    return re.sub(r"//[^/@]*@", "//", url)


@contextmanager
def use_server(url: str) -> Iterator[None]:
    """Point Prefect's client at a server URL, in all threads and in child processes."""
    name = "PREFECT_API_URL"
    earlier = os.environ.get(name)
    os.environ[name] = url
    # Prefect reads its variables at import; if it was imported before, it has to reload them.
    from prefect.context import refresh_global_settings_context
    from prefect.settings import PREFECT_API_URL, temporary_settings

    if not _is_in_force(url):
        # Prefect's own threads have no settings context; without a URL each would start another server.
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
    """Whether Prefect's settings point at the URL, in this thread and globally."""
    from prefect import context
    from prefect.settings import PREFECT_API_URL

    shared = context.GLOBAL_SETTINGS_CONTEXT
    return PREFECT_API_URL.value() == url and shared is not None and shared.settings.api.url == url


def check_server(url: str) -> None:
    """Raise `UserError` unless a Prefect API answers at the URL and accepts the credentials."""
    if not answers(url):
        raise UserError(
            f"no Prefect server answers at {show_url(url)}. Start one (prefect server start), correct --server or "
            "PREFECT_API_URL (it ends in /api), or leave both out to run with an embedded one."
        )
    if not _accepts_credentials(url):
        raise UserError(
            f"the Prefect server at {show_url(url)} requires authentication and rejected the credentials. "
            "Set PREFECT_API_AUTH_STRING=user:password to the server's PREFECT_SERVER_API_AUTH_STRING."
        )


def _accepts_credentials(url: str) -> bool:
    """Whether the server accepts the credentials of Prefect's client; /health needs none."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.settings import PREFECT_API_URL, temporary_settings

    settings = nullcontext() if _is_in_force(url) else temporary_settings({PREFECT_API_URL: url})
    with settings, get_client(sync_client=True) as client:
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

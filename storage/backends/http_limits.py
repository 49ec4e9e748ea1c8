"""Bounds of a download over HTTP, and its errors in words that say what to do."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from storage.errors import StoreError


class RemoteFileError(StoreError):
    """A file that its server does not return, or that must not be requested: the message says which and why."""


class NoAnswerError(RemoteFileError):
    """A server that is unreachable, closes the connection or times out; a later retry may succeed."""


class TemporaryError(Exception):
    """A failure after which the request is retried; `pause` is the server's Retry-After."""

    def __init__(self, error: NoAnswerError, pause: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.pause = pause


class LateError(TimeoutError):
    """A server that has not kept a deadline: an `OSError`, which `http.client` passes on, unlike a `ValueError`."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Timeouts in seconds, and retries with exponential backoff.

    `read` is the socket timeout, and `head` bounds connecting and receiving the response's head, over all redirects;
    the system's resolver has its own timeout. A body slower than `least_rate` bytes a second, on average after `read`,
    is aborted, and so is one that takes more than `longest`, if that is set. `pause` is the backoff before the second
    attempt and doubles before each later one.
    """

    connect: float = 10.0
    read: float = 30.0
    head: float = 60.0
    least_rate: int = 1024
    longest: float | None = None
    attempts: int = 4
    pause: float = 0.5
    longest_pause: float = 30.0
    redirects: int = 5


LIMITS = Limits()


@contextmanager
def explaining(host: str, limits: Limits) -> Iterator[None]:
    """Turn connection errors into actionable messages; a connection reset is retried as `TemporaryError`."""
    try:
        yield
    except StoreError:
        raise
    except ssl.SSLCertVerificationError as error:
        raise RemoteFileError(
            f"{host} shows a certificate that is not trusted ({error.verify_message}); correct the URL, or name the "
            "certificates of your network by SSL_CERT_FILE"
        ) from None
    except TimeoutError as error:
        silence = f"{host} does not answer ({limits.connect:g} s to connect, {limits.read:g} s of silence)"
        raise NoAnswerError(str(error) if isinstance(error, LateError) else silence) from None
    except socket.gaierror as error:
        raise NoAnswerError(
            f"{host} has no address ({error.strerror}); check the name and the network"
        ) from None
    except ConnectionRefusedError:
        raise NoAnswerError(
            f"{host} refuses the connection; check the port, and that its server is up"
        ) from None
    except (ConnectionError, http.client.IncompleteRead, ssl.SSLError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
        raise TemporaryError(NoAnswerError(f"{host} hung up ({reason})")) from None
    except http.client.InvalidURL:
        raise RemoteFileError(f"{host}: its URL holds what no URL can; correct it") from None
    except http.client.HTTPException as error:
        raise RemoteFileError(f"{host} answers what is no HTTP ({type(error).__name__})") from None
    except OSError as error:
        raise NoAnswerError(f"{host} cannot be reached ({error.strerror or type(error).__name__})") from None

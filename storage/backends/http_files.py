"""Download one file over HTTPS: bounded in size, time and redirects, with SSRF protection.

Uses the standard library's client, to check every redirect and every peer's address before a request is sent.
"""

from __future__ import annotations

import http.client
import ipaddress
import random
import re
import socket
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import IO, Literal
from urllib.parse import quote, unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from storage.backends.http_body import HeadDeadline, TimedResponse, copy_body
from storage.backends.http_limits import (
    LIMITS,
    Limits,
    NoAnswerError,
    RemoteFileError,
    TemporaryError,
    explaining,
)

# Which addresses may be requested: any, for a URL of the spec, or public ones alone, for a URL from a server.
Reach = Literal["any", "public"]

_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_PASSING = frozenset((429, 500, 502, 503, 504))
# A host with one of these is refused by `http.client` with an error that names no URL.
_NO_HOST = re.compile(r"[\x00-\x20\x7f]")
_SAFE = "/%:=&?~#+!$,;'@()*[]-._"


def fetch_http(
    url: str,
    into: IO[bytes],
    *,
    most: int,
    reach: Reach = "any",
    validator: str | None = None,
    limits: Limits = LIMITS,
) -> str | None:
    """Download a file into `into`, which is empty, and return its validator (ETag or date; "" for neither).

    With the `validator` of an earlier copy, return None if the server answers that it is not modified. Raises
    `NoAnswerError` after `limits.attempts` without an answer, `RemoteFileError` for any answer other than the file, for
    more than `most` bytes, and for URLs that must not be requested.
    """
    for attempt in range(1, limits.attempts + 1):
        try:
            with _follow(url, reach=reach, validator=validator, limits=limits) as answer:
                if answer.status == http.client.NOT_MODIFIED and validator:
                    return None
                _refuse_status(answer, show_url(url))
                copy_body(answer, into, most=most, where=show_url(url))
                return answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        except TemporaryError as error:
            if attempt == limits.attempts:
                raise error.error from None
            pause = limits.pause * 2 ** (attempt - 1) * random.uniform(1, 1.25)
            time.sleep(min(max(pause, error.pause or 0.0), limits.longest_pause))
            into.seek(0)
            into.truncate()
    raise AssertionError("at least one attempt is made")


def show_url(url: str, *, most: int = 160) -> str:
    """Format a URL for a message: truncated, and without its query, which may be a signature."""
    plain = url.partition("?")[0].partition("#")[0]
    scheme, slashes, rest = plain.partition("://")
    host, slash, path = rest.partition("/")
    text = "".join(
        letter if letter.isprintable() else repr(letter)[1:-1]
        for letter in f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}"
    )
    return text if len(text) <= most else f"{text[: most // 2]}…{text[1 - most // 2 :]}"


def is_loopback(url: str) -> bool:
    """Whether a URL's host is localhost or a loopback address."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_public(host: str) -> bool:
    """Whether an address is public: not loopback, private or link-local."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_global and not address.is_multicast


def check_http_url(url: str) -> None:
    """Raise `RemoteFileError` for an invalid URL, or plain HTTP to another host than loopback."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
        url.encode()
        if _NO_HOST.search(parts.netloc):
            raise ValueError("a host holds no space or control character")
    except ValueError as error:
        raise RemoteFileError(f"{show_url(url)} is no URL ({error}); correct it") from None
    if not host:
        raise RemoteFileError(f"{show_url(url)} names no host; correct the URL")
    if parts.username is not None or parts.password is not None:
        raise RemoteFileError(f"{show_url(url)} has a user or password in it; leave it out")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(url)):
        raise RemoteFileError(
            f"{show_url(url)} is plain {parts.scheme}, which anybody on the way can read and change; give https:// "
            "(http:// is for 127.0.0.1 and localhost alone)"
        )


@contextmanager
def _follow(url: str, *, reach: Reach, validator: str | None, limits: Limits) -> Iterator[TimedResponse]:
    """Request a URL and follow redirects, each checked like the first URL, within `limits.head` in all."""
    at = time.monotonic() + limits.head
    for _ in range(limits.redirects + 1):
        check_http_url(url)
        host = urlsplit(url).hostname or ""
        connection = _connect(url, reach=reach, until=HeadDeadline(host=host, at=at, limits=limits))
        answer: TimedResponse | None = None
        try:
            with explaining(host, limits):
                connection.request("GET", _write_target(url), headers=_make_headers(validator))
                answer = connection.getresponse()
            if answer.status not in _REDIRECTS:
                yield answer
                return
            place = answer.getheader("Location")
            if not place:
                raise RemoteFileError(f"{host} redirects to nowhere (status {answer.status})")
            try:
                before, url = url, urljoin(url, place)
            except ValueError:
                raise RemoteFileError(f"{host} redirects to what is no URL") from None
            if connection.is_public:
                reach = "public"
            if not url.startswith(("http://", "https://")) or (
                url.startswith("http://") and not (is_loopback(url) and is_loopback(before))
            ):
                raise RemoteFileError(
                    f"{host} redirects to {urlsplit(url).scheme or 'another scheme'}://, which is not followed"
                )
        finally:
            # If the server closes the connection, the response owns the socket.
            if answer is not None:
                answer.close()
            connection.close()
    raise RemoteFileError(f"{host} redirects more than {limits.redirects} times")


class _Checked(http.client.HTTPConnection):
    """A connection whose peer's address is checked before a request is sent, and whose answer has a deadline."""

    def __init__(self, host: str, port: int, *, reach: Reach, until: HeadDeadline, proxied: bool) -> None:
        super().__init__(host, port, timeout=until.limits.connect)
        self.response_class = partial(TimedResponse, until=until)  # type: ignore[assignment] # called alone
        # The standard library's would try each address of a host for the whole of the timeout.
        self._create_connection = self._open_socket
        self.reach, self.until, self.limits, self.proxied = reach, until, until.limits, proxied
        # Behind a proxy the peer's address is unknown.
        self.is_public = proxied

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(min(self.limits.read, self.until.count_left()))
        if not self.proxied:
            peer = self.sock.getpeername()[0]
            self.is_public = is_public(peer)
            _refuse_address(peer, self.reach, self.host)

    def getresponse(self) -> TimedResponse:
        answer = super().getresponse()
        assert isinstance(answer, TimedResponse)  # its `response_class`
        return answer

    def _open_socket(self, address: tuple[str, int], *_: object) -> socket.socket:
        failed: OSError | None = None
        for family, kind, protocol, _name, place in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
            opened = socket.socket(family, kind, protocol)
            try:
                opened.settimeout(min(self.limits.connect, self.until.count_left()))
                opened.connect(place)
                # Of the TLS handshake, if there is one.
                opened.settimeout(min(self.limits.connect, self.until.count_left()))
            except OSError as error:
                opened.close()
                failed = error
            else:
                return opened
        raise failed or socket.gaierror(socket.EAI_NONAME, "no address")


class _CheckedTls(_Checked, http.client.HTTPSConnection):
    """The same over TLS, with the certificates that this machine trusts."""


def _connect(url: str, *, reach: Reach, until: HeadDeadline) -> _Checked:
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        name = host if ":" in host else host.encode("idna").decode()
    except UnicodeError:
        raise RemoteFileError(f"{show_url(url)} has a host name that is none; correct it") from None
    if parts.scheme == "http":
        return _Checked(name, parts.port or 80, reach=reach, until=until, proxied=False)
    proxy = None if proxy_bypass(host) else getproxies().get("https")
    if proxy is None:
        return _CheckedTls(name, parts.port or 443, reach=reach, until=until, proxied=False)
    _refuse_named_address(name, reach)
    through = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    connection = _CheckedTls(
        through.hostname or "", through.port or 3128, reach=reach, until=until, proxied=True
    )
    headers = {}
    if through.username is not None:
        user = f"{unquote(through.username)}:{unquote(through.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {b64encode(user.encode()).decode()}"
    connection.set_tunnel(name, parts.port or 443, headers)
    return connection


def _refuse_named_address(host: str, reach: Reach) -> None:
    """Raise `RemoteFileError` if a proxy would be asked for an address that must not be requested."""
    if host == "localhost":
        host = "127.0.0.1"
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return
    _refuse_address(host, reach, host)


def _refuse_address(peer: str, reach: Reach, host: str) -> None:
    address = ipaddress.ip_address(peer.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    if (mapped or address).is_link_local:
        raise RemoteFileError(
            f"{host} is a link-local address ({peer}), where clouds keep credentials: never asked"
        )
    if reach == "public" and not is_public(peer):
        raise RemoteFileError(
            f"{host} is no address of the internet ({peer}), and a server of the internet named it"
        )


def _write_target(url: str) -> str:
    parts = urlsplit(url)
    path = quote(parts.path or "/", safe=_SAFE)
    return f"{path}?{quote(parts.query, safe=_SAFE)}" if parts.query else path


def _make_headers(validator: str | None) -> dict[str, str]:
    headers = {"User-Agent": "cmrm", "Accept": "*/*", "Accept-Encoding": "identity"}
    if validator:
        quoted = validator.startswith(('"', 'W/"'))
        headers["If-None-Match" if quoted else "If-Modified-Since"] = validator
    return headers


def _refuse_status(answer: TimedResponse, where: str) -> None:
    if answer.status == http.client.OK:
        return
    reason = http.client.responses.get(answer.status, "unknown")
    said = f"{where}: {answer.host} answers {answer.status} ({reason})"
    if answer.status in _PASSING:
        raise TemporaryError(NoAnswerError(said), _read_pause(answer.headers.get("Retry-After")))
    raise RemoteFileError(said)


def _read_pause(text: str | None) -> float | None:
    return float(text) if text and text.isascii() and text.isdigit() and len(text) < 6 else None

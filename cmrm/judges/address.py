"""The address of an OpenAI-compatible server and its key: what is wrong with either, as text for a message."""

from __future__ import annotations

import ipaddress
import os
import re
from urllib.parse import urlsplit

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNFIT = re.compile(r"[@\\?#\s\x00-\x1f\x7f]")


def find_url_fault(url: str, *, key_variable: str) -> str | None:
    """Say what is wrong with a server's URL, without quoting what may hold a password; None if it can be used.

    With a `key_variable`, the URL must be https, or of this machine: a key is not sent unencrypted.
    """
    if _UNFIT.search(url):
        return "must be a URL without user, password, query or spaces"
    try:
        parts = urlsplit(url)
        fits = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        return f"must be like https://host/v1 or http://host:8000/v1, and is {url!r}"
    if parts.scheme == "http" and key_variable and not _is_loopback(parts.hostname or ""):
        return "would send the key unencrypted over the network"
    return None


def is_variable(name: str) -> bool:
    """Whether a text can be the name of an environment variable; some users put the key itself there."""
    return _VARIABLE.fullmatch(name) is not None


def read_key(variable: str) -> str:
    """Read a key from the environment, '' if there is none."""
    return os.environ.get(variable, "").strip() if variable else ""


def is_key(text: str) -> bool:
    """Whether a text can be sent as a key: visible characters of ASCII."""
    return re.fullmatch(r"[!-~]+", text) is not None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

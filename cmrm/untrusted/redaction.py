"""Redaction: no secret of this process reaches a message, a log or a database, however it is encoded.

A server can echo the key that it was sent: verbatim, percent-encoded, escaped as in JSON, HTML or Python, in base64 or
in hex. Only this module knows these encodings.
"""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar
from urllib.parse import unquote, urlsplit

Given = ParamSpec("Given")
Made = TypeVar("Made")

MARK = "[secret]"
# Shorter values ("EMPTY") are placeholders, and occur in answers.
LEAST_SECRET = 8
# Names of environment variables that hold a secret; of these, the names of variables that hold a path.
_HOLDS_SECRET = re.compile(r"KEY|SECRET|TOKEN|PASSW|AUTH_STRING|CREDENTIAL", re.IGNORECASE)
_NAMES_FILE = re.compile(r"(FILE|PATH|DIR|SOCK|URI|URL|HOME)S?$", re.IGNORECASE)
# A user before a host, or key:secret whose secret may contain a slash; a port is not a secret.
_USER = re.compile(r"://(?:[^/\s\"'@]*|(?!arn:)[^/\s\"':@\[]*:(?!\d*(?:[/?#\s\"',;.)\]]|$))[^\s\"'@]*)@")
# The same in a URL from the user, which is refused; `user@` without a host counts too.
_GIVEN_USER = re.compile(
    r"://(?:[^/\s\"'<>@]*@|(?!arn:|\[)[^/\s\"'<>:@]*:(?!\d*(?:[/?#\s\"'<>,;.)\]]|$)))", re.IGNORECASE
)
# Query parameters that authenticate a request. A URL may hold spaces, as people write them.
_SIGNED = re.compile(
    r"://[^\n\"'<>]*[?&;#](?:[\w-]*(?:token|secret|signature|passw(?:or)?d|credential|key|accesskey\w*)|sig|sas|pwd|pass|"
    r"auth|jwt|hmac|code(?==[^&\s]{20}))=",
    re.IGNORECASE,
)
_HTTP = re.compile(r"\s*https?://", re.IGNORECASE)
# A whole URL whose user or password holds a space.
_SPACED_USER = re.compile(r"\s*[a-z][\w+.-]*://[^/\n@]*@", re.IGNORECASE)
# A URL within a row of a file, also as JSON escapes it.
_ANY_URL = re.compile(r"[a-z][a-z0-9+.-]*:\\?/\\?/[^\n\"'<>]*", re.IGNORECASE)
# Invisible characters and line wraps that may occur between two characters of a secret.
_GAP = r"(?:[\s\x00-\x1f\x7f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]|\\[rn])*"
# Characters of keys with a named HTML entity.
_ENTITIES = {
    "&": "amp",
    "<": "lt",
    ">": "gt",
    '"': "quot",
    "'": "apos",
    "+": "plus",
    "/": "sol",
    "=": "equals",
}
# Base64 at each of the three offsets in a group of three bytes: characters that also encode the bytes before.
_SHARED = (0, 2, 3)


def redact(text: str, secrets: Iterable[str], *, mark: str = MARK) -> str:
    """Replace each of the secrets, in any encoding.

    Secrets shorter than `LEAST_SECRET` characters are left: they would match plain words.
    """
    pattern = _make_pattern(frozenset(one for one in secrets if len(one) >= LEAST_SECRET))
    return text if pattern is None else pattern.sub(mark, text)


def holds_credentials(text: str) -> bool:
    """Whether a URL in a text contains a user, a password or a signature."""
    if "://" not in text:
        return False
    if _GIVEN_USER.search(text) or _SPACED_USER.match(text):
        return True
    # Names of parameters may be percent-encoded.
    return any(_SIGNED.search(one) for one in {text, unquote(text)})


def holds_bad_port(text: str) -> bool:
    """Whether an http or https URL has a colon after its host, and neither a number nor an @ follows.

    It is a malformed port, or a secret without a host; `holds_credentials` is true as well, since nobody can tell.
    """
    plain = unquote(text)
    if "@" in plain or _SIGNED.search(plain):
        return False
    return _HTTP.match(plain) is not None and _GIVEN_USER.search(plain) is not None


def hide_credentials(text: str) -> str:
    """Replace each URL in a text that contains a user, a password or a signature."""
    return _ANY_URL.sub(lambda url: MARK if holds_credentials(url[0].replace("\\/", "/")) else url[0], text)


def find_secrets(environment: Mapping[str, str] | None = None) -> frozenset[str]:
    """List the secrets in the environment: variables named like one, and passwords in the URLs of others."""
    found: set[str] = set()
    for name, value in (os.environ if environment is None else environment).items():
        if _HOLDS_SECRET.search(name) and not _NAMES_FILE.search(name) and not value.startswith("/"):
            found.add(value.strip())
            if "AUTH_STRING" in name.upper():
                found.add(value.strip().partition(":")[2])
        elif "://" in value and "@" in value:
            found.update(_list_passwords(value))
    return frozenset(one for one in found if len(one) >= LEAST_SECRET)


def redact_known(text: str) -> str:
    """Replace the secrets of this process's environment, in any encoding, and the user and password of any URL."""
    return _clean(text, find_secrets())


def _clean(text: str, secrets: Iterable[str]) -> str:
    return _USER.sub("://", redact(text, secrets))


@contextmanager
def redacted_errors() -> Iterator[None]:
    """Redact the secrets of the environment in any exception of the body and its causes.

    An exception with a secret is raised again without its causes, as the same type if that takes a message alone.
    """
    try:
        yield
    except Exception as error:
        secrets = find_secrets()
        if all(_clean(text, secrets) == text for text in _list_texts(error)):
            raise
        # Without its causes, which a traceback in a log would quote.
        raise _rebuild(error, _clean(str(error), secrets)) from None


def redacting(function: Callable[Given, Made]) -> Callable[Given, Made]:
    """Decorate a function so that its errors are redacted; it stays picklable."""

    @wraps(function)
    def redacted(*arguments: Given.args, **more: Given.kwargs) -> Made:
        with redacted_errors():
            return function(*arguments, **more)

    return redacted


def _list_texts(error: BaseException) -> Iterator[str]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield str(one)
        yield " ".join(getattr(one, "__notes__", ()))
        waiting += [one.__cause__, one.__context__]


def _rebuild(error: Exception, text: str) -> Exception:
    try:
        clean = type(error)(text)
    except Exception:  # noqa: BLE001 - a library's exception may take any arguments
        return RuntimeError(f"{type(error).__name__}: {text}")
    return clean if str(clean) == text else RuntimeError(f"{type(error).__name__}: {text}")


def _list_passwords(text: str) -> Iterator[str]:
    for url in text.split():
        try:
            password = urlsplit(url).password
        except ValueError:
            continue
        if password:
            yield password
            yield unquote(password)


@lru_cache(maxsize=16)
def _make_pattern(secrets: frozenset[str]) -> re.Pattern[str] | None:
    # The longest first: a secret may be a prefix of another.
    patterns = [one for secret in sorted(secrets, key=len, reverse=True) for one in _list_encodings(secret)]
    return re.compile("|".join(patterns), re.IGNORECASE) if patterns else None


def _list_encodings(secret: str) -> Iterator[str]:
    yield _spell(secret)
    raw = secret.encode()
    yield r"(?:0x)?" + r"(?:[\s:,-]|\\x|0x)*".join(f"{byte:02x}" for byte in raw)
    for offset, shared in enumerate(_SHARED):
        whole = (offset + len(raw)) // 3 * 4
        left = (offset + len(raw)) % 3
        coded = b64encode(bytes(offset) + raw).decode()[shared : whole + left]
        # A character that also encodes adjacent bytes contains bits of the secret too.
        before = r"[\w+/-]?" if offset else ""
        after = r"[\w+/-]?(?:=|%3d){0,2}" if left else ""
        yield before + _spell(coded, alike={"+": "-", "/": "_"}) + after


def _spell(text: str, *, alike: Mapping[str, str] | None = None) -> str:
    """Make a pattern of a text each of whose characters may be escaped."""
    return _GAP.join(_spell_letter(letter, (alike or {}).get(letter, letter)) for letter in text)


def _spell_letter(letter: str, other: str) -> str:
    forms = [re.escape(letter), re.escape("\\" + letter)]
    forms += [re.escape(other)] if other != letter else []
    percent = "".join(f"%(?:25)*{byte:02x}" for byte in letter.encode())
    number = ord(letter)
    forms += [
        percent,
        rf"\\{{1,2}}u{number:04x}",
        rf"\\{{1,2}}x{number:02x}",
        f"&\\#0*{number};",
        f"&\\#x0*{number:x};",
    ]
    if letter in _ENTITIES:
        forms.append(f"&{_ENTITIES[letter]};")
    return f"(?:{'|'.join(forms)})"

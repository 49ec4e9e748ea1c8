"""Redaction: a secret is found in every encoding in which a server can send it back, and plain words stay."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest

from cmrm.errors import UserError
from cmrm.untrusted.redaction import (
    MARK,
    find_secrets,
    hide_credentials,
    holds_credentials,
    redact,
    redact_known,
    redacted_errors,
    redacting,
)
from storage.errors import StoreError

KEY = "sk-a+b/c=d+/=Z9_x.y&q"

ENCODINGS: dict[str, Callable[[str], str]] = {
    "as it is": lambda key: key,
    "in capitals": str.upper,
    "percent-encoded": lambda key: quote(key, safe=""),
    "percent-encoded but for slashes": quote,
    "percent-encoded in small letters": lambda key: quote(key, safe="").lower(),
    "percent-encoded twice": lambda key: quote(quote(key, safe=""), safe=""),
    "as a form": quote_plus,
    "percent-encoded throughout": lambda key: "".join(f"%{ord(letter):02X}" for letter in key),
    "JSON": lambda key: json.dumps(key)[1:-1],
    "JSON with escaped slashes": lambda key: json.dumps(key).replace("/", "\\/")[1:-1],
    "JSON with all escaped": lambda key: "".join(f"\\u{ord(letter):04x}" for letter in key),
    "Python's escapes": lambda key: "".join(f"\\x{ord(letter):02x}" for letter in key),
    "HTML": html.escape,
    "HTML by number": lambda key: "".join(f"&#{ord(letter)};" for letter in key),
    "hex": lambda key: key.encode().hex(),
    "hex in capitals": lambda key: key.encode().hex().upper(),
    "hex with colons": lambda key: key.encode().hex(":"),
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "base64 for URLs": lambda key: base64.urlsafe_b64encode(key.encode()).decode(),
    "base64 without its end": lambda key: base64.b64encode(key.encode()).decode().rstrip("="),
    "base64, percent-encoded": lambda key: quote(base64.b64encode(key.encode()).decode(), safe=""),
    "base64 of a user and it": lambda key: base64.b64encode(f"user:{key}".encode()).decode(),
    "base64 after one byte": lambda key: base64.b64encode(f"x{key}!".encode()).decode(),
    "base64 after two bytes": lambda key: base64.b64encode(f"xy{key}!!".encode()).decode(),
    "base64 in lines": lambda key: base64.encodebytes((key * 4).encode()).decode(),
    "with a letter that is not seen": lambda key: key[:5] + "\u200b" + key[5:],
}


@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS.keys())
def test_a_secret_is_found_in_every_encoding_and_the_words_around_it_stay(
    encode: Callable[[str], str],
) -> None:
    coded = encode(KEY)
    shown = redact(f'{{"error": "{coded}"}} is no key.', [KEY, "another-secret"])
    assert "[secret]" in shown
    assert shown.startswith('{"error": "')
    assert shown.endswith('"} is no key.')
    # No eight characters of it, whatever was before and after them in base64.
    assert not [start for start in range(len(coded) - 7) if coded[start : start + 8] in shown]


@pytest.mark.parametrize("length", range(8, 24))
def test_base64_of_a_secret_of_any_length_is_found_wherever_it_begins(length: int) -> None:
    key = "kJ9/+xQ2=vT7-mZ4_bW8.nR5"[:length]
    for before in range(6):
        for after in range(4):
            coded = base64.b64encode(b"u" * before + key.encode() + b"w" * after).decode()
            assert "[secret]" in redact(coded, [key]), (before, after)


def test_plain_words_and_short_secrets_are_left() -> None:
    text = "The EMPTY key sk-a of %41 and c2stYQ== stays, 736b2d61 too."
    assert redact(text, [KEY, "EMPTY", "sk-a", ""]) == text


def test_what_is_secret_in_an_environment_is_known_by_its_name_or_its_url() -> None:
    environment = {
        "OPENAI_API_KEY": "sk-0123456789",
        "AWS_SESSION_TOKEN": "token+/=0123",
        "AWS_SHARED_CREDENTIALS_FILE": "/home/someone/.aws",
        "PREFECT_API_AUTH_STRING": "someone:pass/word",
        "HTTPS_PROXY": "http://someone:proxy%2Fword@proxy:3128",
        "HOME": "/home/someone",
        "HF_TOKEN": "short",
    }
    assert find_secrets(environment) == {
        "sk-0123456789",
        "token+/=0123",
        "someone:pass/word",
        "pass/word",
        "proxy%2Fword",
        "proxy/word",
    }


def test_an_error_leaves_without_the_secret_and_without_what_it_came_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", KEY)
    for kind in (StoreError, UserError):
        with pytest.raises(kind) as caught:
            fail_with_cause(kind)
        assert str(caught.value) == "cannot write: refused [secret]"
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


@redacting
def fail_with_cause(kind: type[Exception]) -> None:
    try:
        raise ConnectionError(f"refused {quote(KEY, safe='')}")
    except ConnectionError as error:
        raise kind(f"cannot write: {error}") from error


def test_a_secret_in_a_cause_alone_takes_the_cause_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", KEY)
    with pytest.raises(StoreError, match=r"^cannot write$") as caught, redacted_errors():
        raise StoreError("cannot write") from ConnectionError(KEY)
    assert caught.value.__cause__ is None


def test_an_error_without_a_secret_is_raised_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", KEY)
    raised = StoreError("cannot write")
    with pytest.raises(StoreError) as caught, redacted_errors():
        raise raised from OSError(28, "No space left on device")
    assert caught.value is raised
    assert isinstance(raised.__cause__, OSError)


def test_an_error_that_takes_other_arguments_becomes_one_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", KEY)
    with pytest.raises(RuntimeError, match=r"^UnicodeDecodeError: .*\[secret\]$"), redacted_errors():
        raise UnicodeDecodeError("utf-8", b"x", 0, 1, KEY)


@pytest.mark.parametrize(
    "url",
    [
        *(
            f"https://host/a.jsonl?{name}=x1"
            for name in (
                "sig",
                "sas",
                "pwd",
                "pass",
                "auth",
                "jwt",
                "hmac",
                "passwd",
                "api_key",
                "subscription-key",
                "private_key",
                "X-Amz-Signature",
                "AWSAccessKeyId",
                "access_token",
                "api%5Fkey",
            )
        ),
        f"https://host/a?code={'x' * 20}",
        "https://host/a b.jsonl?lang=en&token=x1",
        "https://us er:x1@host/a",
        "s3://key:x1@bucket/a",
    ],
)
def test_a_url_that_authenticates_is_known_and_struck_out_of_a_row(url: str) -> None:
    assert holds_credentials(url)
    for row in (json.dumps({"question": "q", "images": [url, "b.png"]}), f"q,'{url}',1"):
        assert hide_credentials(row) == row.replace(url, MARK)
    escaped = json.dumps({"image": url}).replace("/", "\\/")
    assert hide_credentials(escaped) == '{"image": "' + MARK + '"}'


@pytest.mark.parametrize(
    "text",
    [
        "https://host/a b.jsonl?lang=en&page=2#top",
        "see https://host/paper, by me@host",
        "https://host/a?code=3",
        "http://127.0.0.1:4200/api",
        "what is the key=value of a token?",
    ],
)
def test_other_urls_and_texts_stay(text: str) -> None:
    assert not holds_credentials(text)
    assert hide_credentials(text) == text


def test_a_password_in_any_url_is_not_shown() -> None:
    assert redact_known("no answer from https://me:pass@host/x, gave up") == (
        "no answer from https://host/x, gave up"
    )

"""Errors of a remote store: messages that name the fix and contain no credentials."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from storage.errors import StoreError

_LONGEST = 300
# A user before a host, or key:secret whose secret may contain a slash; a port is not a secret.
_USER = re.compile(r"://(?:[^/\s\"'@]*|(?!arn:)[^/\s\"':@\[]*:(?!\d*(?:[/?#\s\"',;.)\]]|$))[^\s\"'@]*)@")
_CREDENTIALS = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or AWS_PROFILE"
_RIGHTS = (
    f"{_CREDENTIALS}, and that they may list the bucket and read, write and delete what is under that name"
)
_BUCKET = "make the bucket, or correct its name in the URL"
_REGION = "set AWS_DEFAULT_REGION to the bucket's region"
_SERVER = "check that the server is up and can be reached, and AWS_ENDPOINT_URL where one is set"
_BUSY = "wait until the server is less busy"
_OTHERWISE = "check the URL and the connection"

# By the server's error code, else by the name of the exception or of one of its base classes.
_FIXES: Mapping[str, str] = MappingProxyType(
    {
        "NoSuchBucket": _BUCKET,
        "InvalidBucketName": _BUCKET,
        "InvalidAccessKeyId": _CREDENTIALS,
        "SignatureDoesNotMatch": _CREDENTIALS,
        "ExpiredToken": _CREDENTIALS,
        "InvalidToken": _CREDENTIALS,
        "400": _CREDENTIALS,
        "AccessDenied": _RIGHTS,
        "AllAccessDisabled": _RIGHTS,
        "403": _RIGHTS,
        "RequestTimeTooSkewed": "set this machine's clock right",
        "PermanentRedirect": _REGION,
        "AuthorizationHeaderMalformed": _REGION,
        "IllegalLocationConstraintException": _REGION,
        "301": _REGION,
        "SlowDown": _BUSY,
        "ServiceUnavailable": _BUSY,
        "503": _BUSY,
        "InternalError": _SERVER,
        "500": _SERVER,
        "502": _SERVER,
        "504": _SERVER,
        # Raised by botocore and aiohttp themselves, without an answer from the server.
        "NoCredentialsError": f"set the credentials in the environment: {_CREDENTIALS}",
        "PartialCredentialsError": _CREDENTIALS,
        "CredentialRetrievalError": _CREDENTIALS,
        "ParamValidationError": _BUCKET,
        "InvalidRegionError": "correct AWS_DEFAULT_REGION",
        "ProfileNotFound": "correct AWS_PROFILE",
        "ConnectionError": _SERVER,
        "HTTPClientError": _SERVER,
        "TimeoutError": _SERVER,
        "PermissionError": _RIGHTS,
    }
)


@contextmanager
def remote_explained(action: str, where: str) -> Iterator[None]:
    """Turn an error of a remote store's driver into a one-line StoreError that names the location and the fix.

    FileNotFoundError passes unchanged, unless the bucket is missing: a missing file is no failure.
    """
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        code = error_code(error)
        if isinstance(error, FileNotFoundError) and code != "NoSuchBucket":
            raise
        raise StoreError(
            f"cannot {action} {where}: {_reason(error)}. To go on, {_fix(error, code)}, then give the same command "
            "again; what is already in the store is unharmed."
        ) from error


def error_code(error: BaseException) -> str | None:
    """Find the server's error code in an exception or its causes."""
    seen: BaseException | None = error
    while seen is not None:
        answer: Any = getattr(seen, "response", None)
        if isinstance(answer, Mapping) and isinstance(answer.get("Error"), Mapping):
            return str(answer["Error"].get("Code"))
        seen = seen.__cause__
    return None


def _fix(error: BaseException, code: str | None) -> str:
    names = [code or "", *(kind.__name__ for kind in type(error).__mro__)]
    return next((_FIXES[name] for name in names if name in _FIXES), _OTHERWISE)


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    # The URL of an endpoint or a proxy may contain a password, and the driver's message quotes it.
    text = _USER.sub("://", " ".join(str(text).split())).rstrip(".")
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"

"""What goes wrong at a remote store, said so that a person can mend it and without what must stay secret."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from storage.errors import StoreError

_LONGEST = 300
_CREDENTIALS = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or AWS_PROFILE"
_RIGHTS = (
    f"{_CREDENTIALS}, and that they may list the bucket and read, write and delete what is under that name"
)
_BUCKET = "make the bucket, or correct its name in the URL"
_REGION = "set AWS_DEFAULT_REGION to the bucket's region"
_SERVER = "check that the server is up and can be reached, and AWS_ENDPOINT_URL where one is set"
_BUSY = "wait until the server is less busy"
_OTHERWISE = "check the URL and the connection"

# By the code that the server answers with, else by the name of the exception or of a class that it derives from.
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
        # What botocore and aiohttp raise themselves, without an answer from the server.
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
    """Turn whatever a remote store's driver raises into a StoreError of one line that names the place and the fix.

    FileNotFoundError passes, unless it is the bucket that is missing: an absent file is an answer, no fault.
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
    """Find the code that the server answered with, behind the exceptions that came of it."""
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
    # An endpoint or a proxy may be set with a password in its URL, and the driver's words quote it.
    text = re.sub(r"://[^/\s\"']*@", "://", " ".join(str(text).split())).rstrip(".")
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"

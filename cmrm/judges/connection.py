"""HTTP transport below the openai SDK: header allowlist, rate limit, timeout, response size limit and validation.

The SDK retries on 408, 409, 429, 5xx, timeouts and connection errors, with exponential backoff and jitter, or after
Retry-After where that is at most two minutes. This client sits below the retries, so each attempt is rate limited, has
one total timeout, is read up to a size limit, and must parse as a completion: a 200 with a truncated JSON body is a
failed attempt and is retried.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from ssl import SSLContext
from typing import Any

import httpx2

from cmrm.judges.judge import Usage
from cmrm.judges.pace import Pace
from cmrm.untrusted.redaction import redact

log = logging.getLogger("cmrm.judges")

MAX_BODY = 4 * 2**20
# Header with the row number, for `Tally`; removed before the request is sent.
ROW = "x-cmrm-row"
# Header allowlist: the SDK's own describe this machine; OPENAI_CUSTOM_HEADERS and OPENAI_ORG_ID are for OpenAI.
_SENT = frozenset((
    "accept", "accept-encoding", "connection", "content-length", "content-type", "host", "user-agent",
))  # fmt: skip
_RECEIVED = ("content-type", "location", "retry-after", "retry-after-ms", "x-should-retry")
_MAX_TOKENS = 2**31
# Environment variables that replace the system's CA certificates.
TRUSTED_BY = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@dataclass(kw_only=True)
class Tally:
    """Attempts made for one row, and the tokens of those that reported a usage.

    `prompt_ids` and `token_ids` are those of the last completion and of its prompt, where the server gives them.
    """

    attempts: int = 0
    usage: Usage | None = None
    prompt_ids: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None


def add_usage(one: Usage | None, other: Usage | None) -> Usage | None:
    """Sum token usage; None means not counted."""
    if one is None or other is None:
        return one or other
    return Usage(
        prompt_tokens=one.prompt_tokens + other.prompt_tokens,
        completion_tokens=one.completion_tokens + other.completion_tokens,
    )


class Connection(httpx2.AsyncClient):
    """An HTTP client for the SDK that sends `key` to the requested host alone and follows no redirect."""

    def __init__(self, *, key: str, timeout: float, pace: Pace) -> None:
        super().__init__(
            timeout=timeout, verify=_load_certificates(*(os.environ.get(name) for name in TRUSTED_BY))
        )
        self.tallies: defaultdict[str, Tally] = defaultdict(Tally)
        self._key = key
        self._limit = timeout
        self._pace = pace
        self._retry_logged = False

    async def send(self, request: httpx2.Request, **_options: Any) -> httpx2.Response:
        """Make one attempt; raise `httpx2.RequestError` for every failure that the SDK should retry."""
        tally = self.tallies[request.headers[ROW]]
        for name in set(request.headers) - _SENT:
            del request.headers[name]
        # A small compressed response could be a decompression bomb.
        request.headers["accept-encoding"] = "identity"
        if self._key:
            request.headers["authorization"] = f"Bearer {self._key}"
        await self._pace.wait()
        tally.attempts += 1
        if tally.attempts > 1 and not self._retry_logged:
            # Log once per batch, so that a user knows what the run is waiting for.
            self._retry_logged = True
            log.warning("%s failed to answer a request; retrying with exponential backoff", request.url.host)
        try:
            async with asyncio.timeout(self._limit):
                response = await super().send(request, stream=True, follow_redirects=False)
                try:
                    body = await _read_body(response)
                finally:
                    await response.aclose()
        except TimeoutError as error:
            raise httpx2.ReadTimeout(
                f"no complete response within {self._limit:g} s", request=request
            ) from error
        # Redacted, since the SDK logs headers.
        headers = {
            name: redact(response.headers[name], [self._key], mark="[key]")
            for name in _RECEIVED
            if name in response.headers
        }
        # Other requests, such as for the list of models, are read by whoever makes them.
        if response.is_success and request.method == "POST":
            body = json.dumps(_read_completion(body, tally)).encode()
            headers["content-type"] = "application/json"
        return httpx2.Response(response.status_code, headers=headers, content=body, request=request)


@lru_cache(maxsize=4)
def _load_certificates(_file: str | None, _folder: str | None) -> SSLContext:
    """Load the CA certificates once: loading takes longer than the rest of a small batch."""
    return httpx2.create_ssl_context()


async def _read_body(response: httpx2.Response) -> bytes:
    body = bytearray()
    async for part in response.aiter_bytes():
        body += part
        if len(body) > MAX_BODY:
            raise httpx2.RemoteProtocolError(f"the response exceeds {MAX_BODY} bytes")
    return bytes(body)


def _read_completion(body: bytes, tally: Tally) -> dict[str, Any]:
    """Validate a completion and keep the fields that are used, so that the SDK parses well-formed data."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise httpx2.RemoteProtocolError("the response is not JSON, or is truncated") from error
    found = found if isinstance(found, dict) else {}
    tally.usage = add_usage(tally.usage, _read_usage(found.get("usage")))
    match found.get("choices"):
        case [{"message": {"content": str() | None} as message} as choice, *_]:
            tally.prompt_ids = _read_ids(found.get("prompt_token_ids"))
            tally.token_ids = _read_ids(choice.get("token_ids")) or _read_ids(
                _list_ids(choice.get("logprobs"))
            )
            return {
                "id": "",
                "object": "chat.completion",
                "created": 0,
                "model": "",
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": _keep_text(choice.get("finish_reason")),
                        "message": {
                            "role": "assistant",
                            "content": message["content"],
                            "refusal": _keep_text(message.get("refusal")),
                        },
                    }
                ],
            }
    raise httpx2.RemoteProtocolError("the response is not a chat completion")


def _read_usage(found: object) -> Usage | None:
    match found:
        case {"prompt_tokens": int(read), "completion_tokens": int(written)} if (
            0 <= read < _MAX_TOKENS and 0 <= written < _MAX_TOKENS
        ):
            return Usage(prompt_tokens=int(read), completion_tokens=int(written))
    return None


def _list_ids(logprobs: object) -> list[object] | None:
    """List the ids of log probabilities, which llama-server adds to them."""
    match logprobs:
        case {"content": [*entries]}:
            return [one.get("id") if isinstance(one, dict) else None for one in entries]
    return None


def _read_ids(found: object) -> tuple[int, ...] | None:
    """Read token ids; None of what is no list of such."""
    if not isinstance(found, list) or not found:
        return None
    ids = [one for one in found if type(one) is int and 0 <= one < _MAX_TOKENS]
    return tuple(ids) if len(ids) == len(found) else None


def _keep_text(found: object) -> str | None:
    return found if isinstance(found, str) else None

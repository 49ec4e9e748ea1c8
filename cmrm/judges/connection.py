"""The wire to an OpenAI-compatible endpoint: what the openai SDK may send, and what of an answer it gets to see.

The SDK does the retries: on 408, 409, 429, 5xx, time-outs and broken connections, with growing and jittered waits, or
as long as the server asks where that is at most two minutes. This class stands below them, so each single attempt is
paced, has one time limit over all its parts, is read up to a size, and must be a completion: a 200 with half a JSON
document is a failed attempt like any other, to be tried again.
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

log = logging.getLogger("cmrm.judges")

MAX_BODY = 4 * 2**20
# Names the row whose request this is, for its tally, and never leaves this process.
ROW = "x-cmrm-row"
# The SDK's own describe this machine, and OPENAI_CUSTOM_HEADERS or OPENAI_ORG_ID are meant for another server.
_SENT = frozenset((
    "accept", "accept-encoding", "connection", "content-length", "content-type", "host", "user-agent",
))  # fmt: skip
_RECEIVED = ("content-type", "location", "retry-after", "retry-after-ms", "x-should-retry")
_MAX_TOKENS = 2**31
# Variables that name other certificates than the system's.
TRUSTED_BY = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@dataclass(kw_only=True)
class Tally:
    """The attempts made for one row, and the tokens of those that said how many they took."""

    attempts: int = 0
    usage: Usage | None = None


def add_usage(one: Usage | None, other: Usage | None) -> Usage | None:
    """Sum tokens; None stands for tokens that nobody counted."""
    if one is None or other is None:
        return one or other
    return Usage(
        prompt_tokens=one.prompt_tokens + other.prompt_tokens,
        completion_tokens=one.completion_tokens + other.completion_tokens,
    )


class Connection(httpx2.AsyncClient):
    """An HTTP client for the SDK: `key` goes to the address asked and nowhere else, redirects are not followed."""

    def __init__(self, *, key: str, timeout: float, pace: Pace) -> None:
        super().__init__(timeout=timeout, verify=_load_trust(*(os.environ.get(name) for name in TRUSTED_BY)))
        self.tallies: defaultdict[str, Tally] = defaultdict(Tally)
        self._key = key
        self._limit = timeout
        self._pace = pace
        self._told = False

    async def send(self, request: httpx2.Request, **_options: Any) -> httpx2.Response:
        """Make one attempt; raises `httpx2.RequestError` for all that the SDK should try again."""
        tally = self.tallies[request.headers[ROW]]
        for name in set(request.headers) - _SENT:
            del request.headers[name]
        # A small compressed answer could unfold without end.
        request.headers["accept-encoding"] = "identity"
        if self._key:
            request.headers["authorization"] = f"Bearer {self._key}"
        await self._pace.wait()
        tally.attempts += 1
        if tally.attempts > 1 and not self._told:
            # Once for each batch: whoever waits should know for what.
            self._told = True
            log.warning(
                "%s did not answer a request; it is sent again, with growing waits between", request.url.host
            )
        try:
            async with asyncio.timeout(self._limit):
                response = await super().send(request, stream=True, follow_redirects=False)
                try:
                    body = await _read_body(response)
                finally:
                    await response.aclose()
        except TimeoutError as error:
            raise httpx2.ReadTimeout(
                f"no whole answer came within {self._limit:g} s", request=request
            ) from error
        headers = {name: response.headers[name] for name in _RECEIVED if name in response.headers}
        if response.is_success:
            body = json.dumps(_read_completion(body, tally)).encode()
            headers["content-type"] = "application/json"
        return httpx2.Response(response.status_code, headers=headers, content=body, request=request)


@lru_cache(maxsize=4)
def _load_trust(_file: str | None, _folder: str | None) -> SSLContext:
    """The certificates that are trusted: read once, since that takes longer than all else that a small batch does."""
    return httpx2.create_ssl_context()


async def _read_body(response: httpx2.Response) -> bytes:
    body = bytearray()
    async for part in response.aiter_bytes():
        body += part
        if len(body) > MAX_BODY:
            raise httpx2.RemoteProtocolError(f"more than {MAX_BODY} bytes came")
    return bytes(body)


def _read_completion(body: bytes, tally: Tally) -> dict[str, Any]:
    """Keep of a completion what is read here, each part checked, so that the SDK meets no surprise."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise httpx2.RemoteProtocolError("what came is not JSON, or not all of it") from error
    found = found if isinstance(found, dict) else {}
    tally.usage = add_usage(tally.usage, _read_usage(found.get("usage")))
    match found.get("choices"):
        case [{"message": {"content": str() | None} as message} as choice, *_]:
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
    raise httpx2.RemoteProtocolError("what came is not a chat completion")


def _read_usage(found: object) -> Usage | None:
    match found:
        case {"prompt_tokens": int(read), "completion_tokens": int(written)} if (
            0 <= read < _MAX_TOKENS and 0 <= written < _MAX_TOKENS
        ):
            return Usage(prompt_tokens=int(read), completion_tokens=int(written))
    return None


def _keep_text(found: object) -> str | None:
    return found if isinstance(found, str) else None

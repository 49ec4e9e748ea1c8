"""Send one row to a chat completions endpoint: retries, error classification, and the verdict from the reply."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import openai

from cmrm.errors import UserError
from cmrm.judges.connection import ROW, Connection, add_usage
from cmrm.judges.judge import Answer, Usage, Verdict
from cmrm.judges.rubric import Message, Rubric
from cmrm.untrusted.redaction import redact

MAX_QUOTED = 300
# With these HTTP statuses the row may be at fault (too long, content filter), or the account (out of credit) or the
# API key. A harmless probe request tells which.
_MAYBE_THE_ROW = frozenset((400, 403, 413, 422))
_KEY_REJECTED = frozenset((401, 403))
_TRANSIENT = frozenset((408, 409, 429))
_PROBE = Answer(question="What colour is grass?", answer="Green.", harmful=False, reference="It is green.")


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A reply for one row; `problem` says why `text` is incomplete, `status` is the HTTP status of a rejected row."""

    text: str = ""
    problem: str = ""
    status: int | None = None
    usage: Usage | None = None


@dataclass(kw_only=True)
class Asker:
    """Sends rows to an endpoint; `label` names the judge in errors. Not frozen: it numbers its requests."""

    label: str
    url: str
    key: str = field(repr=False)
    key_variable: str
    body: Mapping[str, Any]
    rubric: Rubric
    sdk: openai.AsyncOpenAI
    connection: Connection
    _numbers: count[int] = field(default_factory=count, init=False, repr=False)

    async def judge(self, answer: Answer) -> Verdict:
        """Get the verdict on an answer; raise `UserError` if the endpoint gives none after all retries.

        A reply that is truncated, filtered or declined is a parse error; so is a row that the server rejects while it
        accepts a short, harmless probe.
        """
        reply = await self._ask(self.rubric.write(answer))
        if reply.status is not None:
            probe = await self._ask(self.rubric.write(_PROBE))
            if probe.status is not None:
                raise self._all_rejected(probe.status, probe.problem)
            reply = replace(reply, usage=add_usage(reply.usage, probe.usage))
        if reply.problem:
            raw = f"[{reply.problem}] {reply.text}".strip()
            return Verdict(verdict="parse_error", raw=raw, usage=reply.usage)
        return replace(self.rubric.read(reply.text, answer), usage=reply.usage)

    async def _ask(self, messages: list[Message]) -> Reply:
        row = str(next(self._numbers))
        body: Any = {**self.body, "messages": messages}
        error: openai.APIError
        try:
            completion = await self.sdk.chat.completions.create(**body, extra_headers={ROW: row})
        except openai.APIError as caught:
            error = caught
        else:
            return self._read(completion.choices[0], self.connection.tallies.pop(row).usage)
        # Outside of the handler: an error raised inside would carry the request, with its API key, as its context.
        return self._classify(error, row)

    def _read(self, choice: Any, usage: Usage | None) -> Reply:
        text = self._redact(choice.message.content or "")
        match choice.finish_reason:
            case "length":
                problem = "cut off at max_tokens"
            case "content_filter":
                problem = "stopped by the server's filter"
            case _:
                problem = "declined to judge" if choice.message.refusal else ""
        if problem:
            text = text or self._redact(choice.message.refusal or "")
        return Reply(text=text, problem=problem, usage=usage)

    def _classify(self, error: openai.APIError, row: str) -> Reply:
        tally = self.connection.tallies.pop(row)
        status = error.status_code if isinstance(error, openai.APIStatusError) else None
        said = self._quote(error)
        if status in _MAYBE_THE_ROW:
            return Reply(problem=f"{status}: {said}", status=status, usage=tally.usage)
        if status is None or status in _TRANSIENT or status >= 500:
            tries = "1 try" if tally.attempts == 1 else f"{tally.attempts} tries"
            code = f" ({status})" if status else ""
            raise UserError(
                f"{self.label}: gave up on {self.url} after {tries}: {said}{code} Verdicts so far are kept: run "
                "the same command again to resume."
            )
        if status in _KEY_REJECTED:
            raise self._key_rejected(status, said)
        fix = "Check base_url, which usually ends in /v1, and model."
        if 300 <= status < 400:
            fix = "Redirects are not followed, to protect the API key: give the final address as base_url."
        raise UserError(f"{self.label}: {self.url} does not serve this request ({status}): {said} {fix}")

    def _all_rejected(self, status: int, said: str) -> UserError:
        if status in _KEY_REJECTED:
            return self._key_rejected(status, said.removeprefix(f"{status}: "))
        return UserError(
            f"{self.label}: {self.url} rejects every request, a short and harmless one too: {said} Check the judge's "
            "model, max_tokens, seed and extra, and the account. Verdicts so far are kept: run the same command again "
            "to resume."
        )

    def _key_rejected(self, status: int, said: str) -> UserError:
        key = f"the key in {self.key_variable}" if self.key else "a request without a key"
        fix = "Set the environment variable named by key_variable to a valid key."
        return UserError(f"{self.label}: {self.url} rejects {key} ({status}): {said} {fix}")

    def _quote(self, error: openai.APIError) -> str:
        return quote_error(error, key=self.key)

    def _redact(self, text: str) -> str:
        return redact(text, [self.key], mark="[key]")


def quote_error(error: openai.APIError, *, key: str) -> str:
    """Quote the server's error message, or the connection error, as one short, redacted line."""
    said: object = error.body if isinstance(error, openai.APIStatusError) else None
    if isinstance(said, dict):
        said = said.get("message") or said.get("detail") or said
    text = str(said or error.__cause__ or error.message)
    characters = (" " if unicodedata.category(one).startswith("C") else one for one in text)
    line = redact(" ".join("".join(characters).split()), [key], mark="[key]")
    line = line if len(line) <= MAX_QUOTED else f"{line[: MAX_QUOTED - 1]}…"
    return line if line.endswith((".", "!", "?", "…")) else f"{line}."

"""One row's way to an endpoint and back: its verdict, or the error that a person has to mend."""

from __future__ import annotations

import re
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

MAX_QUOTED = 300
LEAST_SECRET = 8
# A request that is refused may be at fault itself: too long for the model, or caught by a server's filter. So may the
# account, whose credit can end in the middle of a run, or the key: a harmless request tells.
_ROWS_OWN = frozenset((400, 403, 413, 422))
_KEY_REFUSED = frozenset((401, 403))
_TRANSIENT = frozenset((408, 409, 429))
_PROBE = Answer(question="What colour is grass?", answer="Green.", harmful=False, reference="It is green.")


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back for a row; `problem` says why `text` is not a whole reply, `status` that the row was refused."""

    text: str = ""
    problem: str = ""
    status: int | None = None
    usage: Usage | None = None


@dataclass(kw_only=True)
class Asker:
    """Asks an endpoint about rows; `place` is how errors name it. Not frozen: it numbers its requests."""

    place: str
    url: str
    key: str = field(repr=False)
    key_variable: str
    body: Mapping[str, Any]
    rubric: Rubric
    sdk: openai.AsyncOpenAI
    connection: Connection
    _numbers: count[int] = field(default_factory=count, init=False, repr=False)

    async def judge(self, answer: Answer) -> Verdict:
        """Get the verdict on an answer; raises `UserError` when none can be had, and then nothing is judged.

        A reply that was cut off, filtered or declined is the model's, and a parse error; so is a row that the server
        refuses, if it then accepts a short and harmless one.
        """
        reply = await self._ask(self.rubric.write(answer))
        if reply.status is not None:
            probe = await self._ask(self.rubric.write(_PROBE))
            if probe.status is not None:
                raise self._refuse_all(probe.status, probe.problem)
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
        # Outside of the handler: a request with its key would hang on the error that is raised from within.
        return self._sort(error, row)

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

    def _sort(self, error: openai.APIError, row: str) -> Reply:
        tally = self.connection.tallies.pop(row)
        status = error.status_code if isinstance(error, openai.APIStatusError) else None
        said = self._quote(error)
        if status in _ROWS_OWN:
            return Reply(problem=f"{status}: {said}", status=status, usage=tally.usage)
        if status is None or status in _TRANSIENT or status >= 500:
            tries = "1 try" if tally.attempts == 1 else f"{tally.attempts} tries"
            code = f" ({status})" if status else ""
            raise UserError(
                f"{self.place}: gave up on {self.url} after {tries}: {said}{code} What was judged is kept, and the "
                "same command goes on."
            )
        if status in _KEY_REFUSED:
            raise self._refuse_key(status, said)
        fix = "Check base_url, which mostly ends in /v1, and model."
        if 300 <= status < 400:
            fix = "A key does not follow a redirect: give the address that it leads to as base_url."
        raise UserError(f"{self.place}: {self.url} does not serve this request ({status}): {said} {fix}")

    def _refuse_all(self, status: int, said: str) -> UserError:
        if status in _KEY_REFUSED:
            return self._refuse_key(status, said.removeprefix(f"{status}: "))
        return UserError(
            f"{self.place}: {self.url} refuses every request, a short and harmless one too: {said} Check the judge's "
            "model, max_tokens, seed and extra, and the account. What was judged is kept, and the same command goes on."
        )

    def _refuse_key(self, status: int, said: str) -> UserError:
        key = f"the key in {self.key_variable}" if self.key else "a request without a key"
        fix = "Put a key that it accepts into the environment variable that key_variable names."
        return UserError(f"{self.place}: {self.url} refuses {key} ({status}): {said} {fix}")

    def _quote(self, error: openai.APIError) -> str:
        """What the server said, or why there is nothing, on one short line that can do no harm."""
        said: object = error.body if isinstance(error, openai.APIStatusError) else None
        if isinstance(said, dict):
            said = said.get("message") or said.get("detail") or said
        text = str(said or error.__cause__ or error.message)
        signs = (" " if unicodedata.category(sign).startswith("C") else sign for sign in text)
        line = self._redact(" ".join("".join(signs).split()))
        line = line if len(line) <= MAX_QUOTED else f"{line[: MAX_QUOTED - 1]}…"
        return line if line.endswith((".", "!", "?", "…")) else f"{line}."

    def _redact(self, text: str) -> str:
        # "EMPTY" and the like keep no secret, and occur in what a model says.
        if len(self.key) < LEAST_SECRET:
            return text
        return re.sub(re.escape(self.key), "[key]", text, flags=re.IGNORECASE)

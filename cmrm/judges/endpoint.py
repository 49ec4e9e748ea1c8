"""The endpoint judge: a chat model behind an OpenAI-compatible API grades answers by a rubric."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from queue import SimpleQueue
from typing import Any, ClassVar

from cmrm.errors import UserError
from cmrm.judges.address import find_url_fault, is_key, is_variable, read_key
from cmrm.judges.judge import Answer, Field, Judge, Verdict
from cmrm.judges.pace import Pace
from cmrm.judges.rubric import get_rubric

Found = tuple[int, Verdict] | None

_OWN_FIELDS = frozenset(("messages", "model", "n", "stream", "tools"))


@dataclass(frozen=True, kw_only=True)
class EndpointJudge(Judge):
    """Sends chat completions requests at temperature 0, up to `concurrency` at once, with rate limit and retries.

    `key_variable` names the environment variable with the API key, '' for a server without one; `extra` adds or
    overrides fields of the request body, None omits one; `revision` is a label of the user's own, since the model
    behind a name may change: another label changes the cache key. `price` is in dollars per million tokens, `prompt`
    and `completion`. Limits hold per judge and process. Raises `UserError` for invalid options, and from `judge` when
    the server gives no verdict; what `judge_each` has yielded by then is valid.
    """

    kind: ClassVar[str] = "endpoint"
    # An instance narrows these to what its rubric reads.
    reads: ClassVar[frozenset[Field]] = frozenset(("question", "answer", "harmful", "reference", "context"))
    version: ClassVar[int] = 1

    model: str
    base_url: str
    rubric: str
    revision: str = ""
    key_variable: str = "OPENAI_API_KEY"
    allow_http: bool = False
    max_tokens: int = 256
    seed: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    concurrency: int = 8
    requests_per_minute: float | None = None
    timeout: float = 60.0
    retries: int = 6
    price: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        rubric = get_rubric(self.rubric)
        object.__setattr__(self, "reads", rubric.reads)
        object.__setattr__(self, "subjects", rubric.subjects)
        self._check_url()
        if self.key_variable and not is_variable(self.key_variable):
            # The value is not quoted: some users put the key itself here.
            raise self._error("key_variable", "must be the name of an environment variable")
        for name, least in (("max_tokens", 1), ("concurrency", 1), ("retries", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise self._error(name, f"must be a whole number from {least}, and is {value!r}")
        for name in ("timeout", "requests_per_minute"):
            value = getattr(self, name)
            if not (_is_number(value) and value > 0) and not (
                name == "requests_per_minute" and value is None
            ):
                raise self._error(name, f"must be a number above 0, and is {value!r}")
        if found := _OWN_FIELDS.intersection(self.extra):
            raise self._error("extra", f"must not hold {min(found)!r}, which the judge sets itself")
        if self.price is not None and not (
            set(self.price) == {"prompt", "completion"}
            and all(_is_number(value) and value >= 0 for value in self.price.values())
        ):
            raise self._error("price", "must hold prompt and completion, dollars per million tokens")

    @property
    def batch_size(self) -> int:
        """Rows that take about 15 seconds, for a caller of `judge` that flushes verdicts after each batch."""
        fast = 4 * self.concurrency
        return min(fast, max(1, int(self.requests_per_minute / 4))) if self.requests_per_minute else fast

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        found = dict(self.judge_each(answers))
        return [found[place] for place in range(len(answers))]

    def judge_each(self, answers: Sequence[Answer]) -> Iterator[tuple[int, Verdict]]:
        rubric = get_rubric(self.rubric)
        asked: list[tuple[int, Answer]] = []
        for place, answer in enumerate(answers):
            settled = rubric.settle(answer)
            if settled is None:
                asked.append((place, answer))
            else:
                yield place, settled
        if asked:
            yield from self._ask_each(asked)

    def spec(self) -> Mapping[str, Any]:
        rubric = get_rubric(self.rubric)
        return {
            "judge": self.kind,
            "version": self.version,
            "base_url": self._url,
            "revision": self.revision,
            "rubric": rubric.name,
            "wording": rubric.digest(),
            "body": self._body,
        }

    def check(self) -> None:
        self._check_package()
        self._read_key()

    def _ask_each(self, asked: Sequence[tuple[int, Answer]]) -> Iterator[tuple[int, Verdict]]:
        self._check_package()
        from anyio.from_thread import start_blocking_portal

        found: SimpleQueue[Found] = SimpleQueue()
        # A thread with its own event loop: the calling thread may have none, or one that is running.
        with start_blocking_portal() as portal:
            work = portal.start_task_soon(self._work, self._read_key(), asked, found.put)
            while (one := found.get()) is not None:
                yield one
            work.result()

    async def _work(
        self, key: str, asked: Sequence[tuple[int, Answer]], give: Callable[[Found], None]
    ) -> None:
        from openai import AsyncOpenAI

        from cmrm.judges.asker import Asker
        from cmrm.judges.connection import Connection

        rows = iter(asked)
        errors: list[UserError] = []

        async def ask_rows() -> None:
            for place, answer in rows:
                # Requests in flight are paid for, so they are awaited; after an error no new one is sent.
                if errors:
                    return
                try:
                    give((place, await asker.judge(answer)))
                except UserError as error:
                    errors.append(error)

        try:
            connection = Connection(key=key, timeout=self.timeout, pace=self._pace)
            async with AsyncOpenAI(
                # The SDK reads omitted options from the environment; the API key is set by `Connection`.
                api_key="none",
                base_url=self._url,
                max_retries=self.retries,
                timeout=self.timeout,
                http_client=connection,
            ) as sdk:
                asker = Asker(
                    label=f"judges.{self.name}",
                    url=self._url,
                    key=key,
                    key_variable=self.key_variable,
                    body=self._body,
                    rubric=get_rubric(self.rubric),
                    sdk=sdk,
                    connection=connection,
                )
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self.concurrency, len(asked))):
                        group.create_task(ask_rows())
        finally:
            give(None)
        if errors:
            raise errors[0]

    @cached_property
    def _pace(self) -> Pace:
        return Pace(interval=60 / self.requests_per_minute if self.requests_per_minute else 0.0)

    @property
    def _body(self) -> dict[str, Any]:
        usual = {"model": self.model, "max_tokens": self.max_tokens, "temperature": 0, "seed": self.seed}
        return {name: value for name, value in {**usual, **self.extra}.items() if value is not None}

    @property
    def _url(self) -> str:
        return self.base_url.rstrip("/")

    def _check_url(self) -> None:
        key = "" if self.allow_http else self.key_variable
        fault = find_url_fault(self.base_url, key_variable=key)
        if fault is not None and fault.startswith("would send"):
            fault += (
                "; use https, give key_variable: '' if the server needs no key, or allow_http: true if the network is "
                "yours"
            )
        if fault is not None:
            raise self._error("base_url", fault)

    def _check_package(self) -> None:
        if find_spec("openai") is None:
            raise UserError(f"judges.{self.name} needs the openai package: pip install 'cmrm[endpoints]'.")

    def _read_key(self) -> str:
        if not self.key_variable:
            return ""
        key = read_key(self.key_variable)
        if not key:
            raise self._error(
                "key_variable",
                f"names {self.key_variable}, which holds no key here; set that environment variable, or give '' if "
                f"{self._url} needs none",
            )
        if not is_key(key):
            raise self._error(
                "key_variable", f"names {self.key_variable}, which holds something that is no key"
            )
        return key

    def _error(self, option: str, what: str) -> UserError:
        return UserError(f"judges.{self.name}.{option} {what}.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

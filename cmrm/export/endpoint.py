"""Ask a canary's prompts of an OpenAI-compatible server: vLLM, SGLang, llama-server, mlx and others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cmrm.errors import UserError
from cmrm.export.canary import Canary, CanaryPrompt
from cmrm.export.served import Served
from cmrm.judges.address import find_url_fault, is_key, is_variable, read_key
from cmrm.untrusted.redaction import redact

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from cmrm.judges.connection import Connection

RETRIES = 2
# Names of models in a message.
MOST_NAMES = 20
# What asks for token ids: vLLM's own field, and for llama-server log probabilities, which name them.
WITH_IDS: Mapping[str, Any] = MappingProxyType({"return_token_ids": True, "logprobs": True})
# What servers say to fields that they do not know, or cannot fill.
REFUSED = frozenset((400, 422, 500, 501))


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A server's address; `model` is the name under which it serves, '' for the only one that it lists.

    `key_variable` names the environment variable with the API key, '' for a server without one. `fields` are added to
    each request. `timeout` is in seconds, for each answer. Raises `UserError` for an address or a name that cannot be
    used.
    """

    url: str
    model: str = ""
    key_variable: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 120.0

    def __post_init__(self) -> None:
        if self.key_variable and not is_variable(self.key_variable):
            # The value is not quoted: some users give the key itself.
            raise UserError("--key-variable: must be the name of an environment variable.")
        if fault := find_url_fault(self.url, key_variable=self.key_variable):
            raise UserError(f"the server's URL {fault}.")
        if find_spec("openai") is None:
            raise UserError("verify-serving needs the openai package: pip install 'cmrm[endpoints]'.")

    def ask(self, canary: Canary) -> list[Served]:
        """Ask all prompts, one after the other, at temperature 0; raises `UserError` if one gets no answer."""
        return asyncio.run(self._ask(canary))

    async def _ask(self, canary: Canary) -> list[Served]:
        import openai

        from cmrm.judges.asker import quote_error
        from cmrm.judges.connection import Connection
        from cmrm.judges.pace import Pace

        key = self._read_key()
        penalty = canary.repetition_penalty
        # Not every server knows the field, so it is sent where it is needed alone.
        more = {**self.fields, **({} if penalty is None else {"repetition_penalty": penalty})}
        connection = Connection(key=key, timeout=self.timeout, pace=Pace(interval=0.0))
        failure: str
        try:
            async with openai.AsyncOpenAI(
                # As for judges: the SDK would read omitted options from the environment.
                api_key="none",
                base_url=self.url.rstrip("/"),
                max_retries=RETRIES,
                timeout=self.timeout,
                http_client=connection,
            ) as sdk:
                model = self.model or await _find_model(sdk)
                asker = _Asker(sdk=sdk, connection=connection, model=model, key=key)
                return await asker.answer_all(canary.prompts, more)
        except openai.APIError as error:
            status = f" ({error.status_code})" if isinstance(error, openai.APIStatusError) else ""
            failure = f"{quote_error(error, key=key)}{status}"
        # Outside of the handler: an error raised inside would carry the request, with its API key, as its context.
        raise UserError(
            f"{self.url} gives no answer: {failure} Check that the address ends in /v1, and the served model's name "
            "(--served-model)."
        )

    def _read_key(self) -> str:
        key = read_key(self.key_variable)
        if self.key_variable and not is_key(key):
            raise UserError(
                f"--key-variable names {self.key_variable}, which holds no key here; set that environment variable."
            )
        return key


async def _find_model(sdk: AsyncOpenAI) -> str:
    from cmrm.judges.connection import ROW

    # The SDK would parse what is no list of models, such as the page of a web server, without a check.
    names = _read_names(await sdk.get("/models", cast_to=str, options={"headers": {ROW: "models"}}))
    if len(names) == 1:
        return names[0]
    from cmrm.untrusted.printable import show_names

    raise UserError(
        f"the server lists {show_names(names[:MOST_NAMES]) or 'no model'}; name the one to ask (--served-model), and "
        "check that the address ends in /v1."
    )


def _read_names(body: str) -> list[str]:
    """Read the names of a list of models; none of what is no such list."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return []
    listed = found.get("data") if isinstance(found, dict) else None
    named = [one.get("id") for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    return [one for one in named if isinstance(one, str) and one]


@dataclass(frozen=True, kw_only=True)
class _Asker:
    """Asks one model of a server."""

    sdk: AsyncOpenAI
    connection: Connection
    model: str
    key: str

    async def answer_all(self, prompts: Sequence[CanaryPrompt], more: Mapping[str, Any]) -> list[Served]:
        """Answer prompts, with their token ids unless the server refuses a request that asks for them."""
        import openai

        try:
            first = await self._answer(0, prompts[0], {**WITH_IDS, **more})
            more = {**WITH_IDS, **more}
        except openai.APIStatusError as error:
            if error.status_code not in REFUSED:
                raise
            # What is asked now is another request, and no further attempt at the refused one.
            del self.connection.tallies["0"]
            first = await self._answer(0, prompts[0], more)
        rest = [await self._answer(number, one, more) for number, one in enumerate(prompts[1:], start=1)]
        return [first, *rest]

    async def _answer(self, number: int, prompt: CanaryPrompt, more: Mapping[str, Any]) -> Served:
        from cmrm.judges.connection import ROW

        messages: Any = list(prompt.messages)
        made = await self.sdk.chat.completions.create(
            model=self.model,
            messages=messages,
            temperature=0,
            max_tokens=prompt.max_tokens,
            extra_headers={ROW: str(number)},
            extra_body=more,
        )
        tally = self.connection.tallies.pop(str(number))
        return Served(
            text=redact(made.choices[0].message.content or "", [self.key], mark="[key]"),
            tokens=tally.token_ids,
            prompt_ids=tally.prompt_ids,
            prompt_tokens=None if tally.usage is None else tally.usage.prompt_tokens,
        )

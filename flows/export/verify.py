"""`cmrm verify-serving`: ask a canary's prompts of a server or a folder, and say whether it steers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from cmrm.errors import UserError
from cmrm.export.canary import Canary, CanaryPrompt, Reading, judge_readings, read_canary, read_text_start
from cmrm.export.endpoint import Endpoint, Served
from cmrm.export.request_fields import read_request_fields
from cmrm.untrusted.printable import show
from flows.server.client import quiet_prefect
from flows.terminal.safe_text import show_safely
from flows.terminal.table import TableColumn, make_table

if TYPE_CHECKING:
    from rich.table import Table

STATUS: dict[Reading, int] = {"steered": 0, "unsteered": 1, "neither": 2}
MOST_SHOWN = 44


@dataclass(frozen=True, kw_only=True)
class Verified:
    """One prompt's answer, how it reads, and whether it equals an expected answer to its end."""

    prompt: CanaryPrompt
    served: Served
    reading: Reading

    @property
    def whole(self) -> bool:
        """Whether the answer equals the expected one to its end."""
        if self.reading == "neither":
            return False
        expected = self.prompt.steered if self.reading == "steered" else self.prompt.unsteered
        return self.served.text.strip() == expected.text.strip()


def verify(canary: Canary, answers: Sequence[Served]) -> list[Verified]:
    """Read each answer."""
    return [
        Verified(prompt=prompt, served=served, reading=read_text_start(served.text, prompt))
        for prompt, served in zip(canary.prompts, answers, strict=True)
    ]


def verify_serving(
    target: str,
    *,
    canary: Path,
    model: str,
    key_variable: str,
    request_fields: Path | None,
    timeout: float,
    device: str,
) -> int:
    """Ask a server (a URL) or a local folder, print what it answers, and return the exit status.

    Raises `UserError` for a canary or fields that cannot be read and a target that gives no answers.
    """
    quiet_prefect()
    expected = read_canary(canary)
    if target.startswith(("http://", "https://")):
        endpoint = Endpoint(
            url=target,
            model=model,
            key_variable=key_variable,
            fields={} if request_fields is None else read_request_fields(request_fields),
            timeout=timeout,
        )
        answers = endpoint.ask(expected)
    elif request_fields is not None:
        raise UserError("--request-fields are of requests to a server; leave them out for a folder.")
    else:
        answers = _ask_folder(Path(target), expected, device=device)
    found = verify(expected, answers)
    reading = judge_readings([one.reading for one in found])
    console = Console()
    console.print(_draw(found))
    for line in _sum_up(expected, found, reading):
        console.print(Text(show_safely(line)))
    return STATUS[reading]


def _ask_folder(folder: Path, canary: Canary, *, device: str) -> list[Served]:
    from cmrm.api.models import load_model
    from cmrm.export.local import answer_locally

    if not folder.is_dir():
        raise UserError(
            f"{show(folder)}: is neither a URL nor a folder; give http://host:8000/v1 or an exported folder."
        )
    vlm = load_model(folder, device=device)
    return [
        Served(text=answer_locally(vlm, prompt, max_tokens=prompt.max_tokens), prompt_tokens=None)
        for prompt in canary.prompts
    ]


def _draw(found: Sequence[Verified]) -> Table:
    table = make_table(
        [
            TableColumn(title="#", justify="right", width=2),
            TableColumn(title="image", width=5),
            TableColumn(title="part at", justify="right", width=7),
            TableColumn(title="answer begins", width=MOST_SHOWN),
            TableColumn(title="reads", width=10),
        ]
    )
    for number, one in enumerate(found, start=1):
        image = any(isinstance(message.get("content"), list) for message in one.prompt.messages)
        table.add_row(
            str(number),
            "yes" if image else "no",
            str(one.prompt.differ_at),
            Text(show(one.served.text.strip(), most=MOST_SHOWN)),
            one.reading,
        )
    return table


def _sum_up(canary: Canary, found: Sequence[Verified], reading: Reading) -> Iterator[str]:
    whole = sum(one.whole for one in found)
    yield f"{whole} of {len(found)} answers equal the expected ones to the end."
    lengths = {
        (one.served.prompt_tokens, len(one.prompt.token_ids))
        for one in found
        if one.served.prompt_tokens not in {None, len(one.prompt.token_ids)}
    }
    if lengths:
        given, expected = min(lengths, key=lambda pair: pair[1])
        yield (
            f"It says that a prompt has {given} tokens, and the canary's has {expected}: it formats prompts otherwise, "
            "by another chat template or image processor, so its answers may be those of another prompt."
        )
    blocks = f"{'block' if len(canary.blocks) == 1 else 'blocks'} {', '.join(map(str, canary.blocks))}"
    what = f"α = {canary.alpha:g} at {blocks} ({canary.format}, {canary.dtype})"
    yield {
        "steered": f"steered: it serves {canary.model} with {what}.",
        "unsteered": f"unsteered: it serves {canary.model} without {what}; the shift was dropped.",
        "neither": f"neither: it serves neither {canary.model} as it is nor with {what}.",
    }[reading]

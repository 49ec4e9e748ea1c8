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
from cmrm.export.endpoint import Endpoint
from cmrm.export.request_fields import read_request_fields
from cmrm.export.served import Served, is_read_by_ids, read_served
from cmrm.untrusted.printable import show
from flows.server.client import quiet_prefect
from flows.terminal.safe_text import show_safely
from flows.terminal.table import TableColumn, make_table

if TYPE_CHECKING:
    from rich.table import Table

STATUS: dict[Reading, int] = {"steered": 0, "unsteered": 1, "neither": 2}
MOST_SHOWN = 44
# An exported graph, which ONNX Runtime answers by.
GRAPH = "model.onnx"


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
        if self.by_ids and self.served.tokens == expected.tokens:
            return True
        return self.served.text.strip() == expected.text.strip()

    @property
    def by_ids(self) -> bool:
        """Whether it reads by its token ids, and not by its text."""
        return is_read_by_ids(self.served, self.prompt)


def verify(canary: Canary, answers: Sequence[Served]) -> list[Verified]:
    """Read each answer."""
    return [
        Verified(prompt=prompt, served=served, reading=read_served(served, prompt))
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
    if not folder.is_dir():
        raise UserError(
            f"{show(folder)}: is neither a URL nor a folder; give http://host:8000/v1 or an exported folder."
        )
    if (folder / GRAPH).is_file():
        from cmrm.export.graph_session import answer_by_graph, open_graph

        graph = open_graph(folder)
        return [answer_by_graph(graph, prompt, max_tokens=prompt.max_tokens) for prompt in canary.prompts]
    from cmrm.models.adapters import CONFIG

    if (folder / CONFIG).is_file():
        raise UserError(
            f"{show(folder)}: is an adapter, which answers over its model alone; its export held it against the "
            "canary. Give a server that loads it, or a whole folder (--to checkpoint)."
        )
    from cmrm.api.models import load_model
    from cmrm.export.local import answer_locally

    vlm = load_model(folder, device=device)
    return [answer_locally(vlm, prompt, max_tokens=prompt.max_tokens) for prompt in canary.prompts]


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
    yield from _say_how_read(found)
    yield from _say_prompts(found)
    blocks = f"{'block' if len(canary.blocks) == 1 else 'blocks'} {', '.join(map(str, canary.blocks))}"
    what = f"α = {canary.alpha:g} at {blocks} ({canary.format}, {canary.dtype})"
    yield {
        "steered": f"steered: it serves {canary.model} with {what}.",
        "unsteered": f"unsteered: it serves {canary.model} without {what}; the shift was dropped.",
        "neither": f"neither: it serves neither {canary.model} as it is nor with {what}.",
    }[reading]


def _say_how_read(found: Sequence[Verified]) -> Iterator[str]:
    """Say whether token ids or texts were compared, and where the two would read otherwise."""
    by_ids = [one for one in found if one.by_ids]
    texts = len(found) - len(by_ids)
    if not texts:
        yield "Compared by token ids."
    elif not by_ids:
        yield "Compared by text: it gives no token ids."
    else:
        yield f"Compared by token ids, {texts} of {len(found)} by text."
    other = sum(
        one.reading == "neither" and read_text_start(one.served.text, one.prompt) != "neither"
        for one in by_ids
    )
    if other:
        yield (
            f"{other} of {len(found)} texts begin as expected, of other tokens: its tokenizer numbers or cuts words "
            "otherwise, or it is another model."
        )


def _say_prompts(found: Sequence[Verified]) -> Iterator[str]:
    """Say where the server reads other prompts than the canary's, by their token ids, else by how many these are."""
    lengths = {
        (given, len(one.prompt.token_ids))
        for one in found
        if (given := one.served.count_prompt()) not in {None, len(one.prompt.token_ids)}
    }
    reason = "it formats prompts otherwise, by another chat template or image processor, so its answers may be those "
    if lengths:
        given, expected = min(lengths, key=lambda pair: pair[1])
        yield f"It says that a prompt has {given} tokens, and the canary's has {expected}: {reason}of another prompt."
    elif any(one.served.prompt_ids not in {None, one.prompt.token_ids} for one in found):
        yield f"It reads other tokens than the canary's prompts have: {reason}of another prompt."

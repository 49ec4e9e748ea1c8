"""Out of memory: batches are halved by the stages' own policy until they fit, and the answers stay the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import torch

from cmrm.decoding.api import answer
from cmrm.decoding.requests import DecodeRequest
from cmrm.prompts.conditions import Prompt
from cmrm.steering.intervention import Intervention
from on_a_gpu.checks import Evidence
from on_a_gpu.exactness import Steered
from on_a_gpu.machine import free, read_peak, reset_peak, write_bytes
from on_a_gpu.subject import Subject
from tasks.core.oom import run_in_smaller_batches
from tasks.core.stage_name import StageName

if TYPE_CHECKING:
    from tasks.core.stage import Job

# The texts of a prompt under each arm.
Texts = tuple[str, ...]


class Answering:
    """Answers prompts in batches, keeps what is finished, and notes the batches that were."""

    def __init__(self, subject: Subject, prompts: Sequence[Prompt]) -> None:
        self._subject, self._prompts = subject, prompts
        self.texts: dict[int, Texts] = {}
        self.batches: list[range] = []
        self.tried: list[int] = []

    def attempt(self, size: int) -> None:
        """Answer those that wait, in batches of `size`."""
        self.tried.append(size)
        waiting = self.list_waiting()
        for start in range(0, len(waiting), size):
            numbers = [int(name) for name in waiting[start : start + size]]
            self.answer_batch(range(numbers[0], numbers[-1] + 1))

    def answer_batch(self, numbers: range) -> None:
        """Answer one batch, plain and steered."""
        vlm, sizes = self._subject.vlm, self._subject.sizes
        request = DecodeRequest(
            prompts=[self._prompts[number] for number in numbers], arms=[None, steer_slightly(self._subject)]
        )
        done = {
            numbers[one.row]: tuple(one.answers[arm].text for arm in range(2))
            for one in answer(vlm, [request], max_new_tokens=sizes.new_tokens, rows=len(numbers))
        }
        self.texts |= done
        self.batches.append(numbers)

    def list_waiting(self) -> list[str]:
        """The numbers of the prompts without answers."""
        return [str(number) for number in range(len(self._prompts)) if number not in self.texts]


def steer_slightly(subject: Subject) -> Intervention:
    """A Δ of ones at one block."""
    return Steered(delta=torch.ones(1, subject.vlm.hidden_size), blocks=subject.steered[:1]).intervention


def check_halving(subject: Subject) -> Evidence:
    """Answer under a cap on memory; then the same batches without it, and all in one."""
    prompts = subject.ask_pictures(2 * subject.sizes.prompts)
    whole = Answering(subject, prompts)
    # The first call loads kernels and workspaces.
    Answering(subject, prompts[:1]).attempt(1)
    free(subject.device)
    reset_peak(subject.device)
    whole.attempt(len(prompts))
    peak = read_peak(subject.device)
    free(subject.device)
    capped = Answering(subject, prompts)
    cap, how = choose_cap(subject, rows=len(prompts), peak=peak or 0)
    job = cast("Job", SimpleNamespace(stage=StageName.GENERATE, label=subject.name))
    with cap():
        size = run_in_smaller_batches(job, len(prompts), capped.attempt, capped.list_waiting)
    again = Answering(subject, prompts)
    for numbers in capped.batches:
        again.answer_batch(numbers)
    same = sum(capped.texts[number] == again.texts[number] for number in again.texts)
    alike = sum(capped.texts[number] == whole.texts[number] for number in whole.texts)
    wrong = (
        []
        if same == len(prompts)
        else [f"{same} of {len(prompts)} answers are those of the same batches uncapped"]
    )
    if len(capped.tried) < 2:
        wrong.append(f"{how} let all {len(prompts)} prompts through at once")
    return Evidence(
        line=(
            f"{how}: batches of {', '.join(map(str, capped.tried))} tried, {size} fits; {same} of {len(prompts)} "
            f"answers those of the same batches uncapped, {alike} those of one batch uncapped"
        ),
        figures={
            "prompts": len(prompts),
            "cap": how,
            "sizes_tried": capped.tried,
            "size": size,
            "batches": [len(numbers) for numbers in capped.batches],
            "same_as_uncapped_batches": same,
            "same_as_one_batch": alike,
            "uncapped_peak_bytes": peak,
        },
        wrong=wrong,
    )


def choose_cap(subject: Subject, *, rows: int, peak: int) -> tuple[Callable[[], Any], str]:
    """A cap under which `rows` rows do not fit and half of them do: of torch's allocator, or on a CPU an error."""
    device = subject.device
    if device.type != "cuda":
        most = rows // 2
        return lambda: raising_above(subject.vlm.decoder, most), f"an error above {most} rows"
    total = torch.cuda.get_device_properties(device).total_memory
    # Between what half of the batch and all of it need above the weights.
    needed = peak - torch.cuda.memory_allocated(device)
    limit = torch.cuda.memory_reserved(device) + int(0.7 * needed)
    return lambda: capping(device, limit / total), f"a cap of {write_bytes(limit)} on torch's allocator"


@contextmanager
def capping(device: torch.device, fraction: float) -> Iterator[None]:
    """Let torch allocate only this fraction of the GPU's memory."""
    torch.cuda.set_per_process_memory_fraction(fraction, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


@contextmanager
def raising_above(decoder: torch.nn.Module, rows: int) -> Iterator[None]:
    """Raise torch's OOM error at passes of more rows."""

    def act(_module: torch.nn.Module, _args: Any, given: dict[str, Any]) -> None:
        embedded = given.get("inputs_embeds")
        if embedded is not None and embedded.shape[0] > rows:
            raise torch.OutOfMemoryError(f"{embedded.shape[0]} rows, and {rows} are allowed")

    handle = decoder.register_forward_pre_hook(act, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()

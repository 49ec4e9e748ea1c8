"""A call that hangs is abandoned when its caller is stopped, and the items it produced before count."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from contextvars import ContextVar

import pytest

from tasks.core.call_thread import CallThread, JobStoppedError, calling_in, iterate_apart
from tasks.core.daemon_thread import DaemonThread

SECONDS = 30.0
spoken: ContextVar[str] = ContextVar("spoken")


@pytest.fixture
def calls() -> Iterator[CallThread]:
    thread = CallThread("cmrm-test-calls")
    yield thread
    thread.stop()


def test_items_come_in_order_from_one_thread_with_the_callers_context(calls: CallThread) -> None:
    spoken.set("here")
    seen: set[tuple[str, str]] = set()

    def count() -> Iterator[int]:
        for number in range(50):
            seen.add((threading.current_thread().name, spoken.get()))
            yield number

    for _ in range(2):
        assert list(calls.iterate(count)) == list(range(50))
    assert seen == {("cmrm-test-calls", "here")}


@pytest.mark.parametrize("error", [ConnectionError("gone"), SystemExit(3), KeyboardInterrupt()])
def test_an_error_of_a_call_is_raised_after_its_items(calls: CallThread, error: BaseException) -> None:
    def fail() -> Iterator[int]:
        yield 1
        raise error

    items = calls.iterate(fail)
    assert next(items) == 1
    with pytest.raises(type(error)) as told:
        next(items)
    assert told.value is error
    assert list(calls.iterate(lambda: [2])) == [2]


def test_what_was_given_before_the_stop_is_there_and_nothing_later(calls: CallThread) -> None:
    hanging, going_on, closed = threading.Event(), threading.Event(), threading.Event()

    def hang() -> Iterator[int]:
        try:
            yield from (1, 2)
            hanging.set()
            going_on.wait(SECONDS)
            yield 3
            yield 4
        finally:
            closed.set()

    items = calls.iterate(hang)
    assert next(items) == 1
    assert hanging.wait(SECONDS)
    calls.stop()
    assert next(items) == 2
    with pytest.raises(JobStoppedError):
        next(items)
    with pytest.raises(JobStoppedError):
        next(calls.iterate(lambda: [5]))
    # A judge that comes back is asked for no more.
    going_on.set()
    assert closed.wait(SECONDS)


def test_a_caller_that_leaves_early_ends_the_call_after_its_next_item(calls: CallThread) -> None:
    left, taken = threading.Event(), []

    def count() -> Iterator[int]:
        for number in range(10):
            if number == 1:
                left.wait(SECONDS)
            taken.append(number)
            yield number

    with closing(calls.iterate(count)) as items:
        assert next(items) == 0
    left.set()
    assert list(calls.iterate(lambda: [7])) == [7]
    assert taken == [0, 1]


def test_without_a_call_thread_the_caller_iterates_itself(calls: CallThread) -> None:
    def name_thread() -> Iterator[str]:
        yield threading.current_thread().name

    with iterate_apart(name_thread) as items:
        assert list(items) == [threading.current_thread().name]
    with calling_in(calls), iterate_apart(name_thread) as items:
        assert list(items) == ["cmrm-test-calls"]


def test_a_stopped_thread_drops_queued_calls() -> None:
    begun, going_on = threading.Event(), threading.Event()
    thread = DaemonThread("cmrm-test")

    def work() -> str:
        begun.set()
        going_on.wait(SECONDS)
        return "done"

    first, second = thread.submit(work), thread.submit(lambda: "never")
    assert begun.wait(SECONDS)
    thread.stop()
    assert not thread.join(0.01)
    going_on.set()
    assert thread.join(SECONDS)
    assert first.result() == "done"
    assert second.cancelled()
    assert DaemonThread("cmrm-idle").join()

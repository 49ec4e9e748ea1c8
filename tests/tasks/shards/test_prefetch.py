"""Prefetched results come in order, are bounded, and end with their consumer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from tasks.shards.prefetch import make_thread, prefetch


def count_threads() -> int:
    return sum(thread.name.startswith("cmrm-prefetch") for thread in threading.enumerate())


def test_results_come_in_order_from_one_thread_that_ends_with_them() -> None:
    names: set[str] = set()

    def square(number: int) -> int:
        names.add(threading.current_thread().name)
        return number**2

    with make_thread() as thread:
        assert list(prefetch(range(20), square, thread)) == [number**2 for number in range(20)]
    assert len(names) == 1
    assert threading.current_thread().name not in names
    assert count_threads() == 0


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_no_more_items_are_taken_than_were_consumed_and_the_prefetch_depth(depth: int) -> None:
    taken: list[int] = []

    def take() -> Iterator[int]:
        for number in range(10):
            taken.append(number)
            yield number

    with (
        make_thread() as thread,
        closing(prefetch(take(), lambda number: number, thread, depth=depth)) as results,
    ):
        assert taken == []
        assert next(results) == 0
        assert len(taken) == 1 + depth
        assert next(results) == 1
        assert len(taken) == 2 + depth


def test_the_next_item_is_prefetched_while_one_is_in_use() -> None:
    begun = threading.Event()

    def work(number: int) -> int:
        if number == 1:
            begun.set()
        return number

    with make_thread() as thread, closing(prefetch(range(2), work, thread, depth=1)) as results:
        next(results)
        assert begun.wait(timeout=30)


def test_an_error_is_raised_in_place_of_its_result_and_nothing_follows() -> None:
    done: list[int] = []

    def work(number: int) -> int:
        if number == 2:
            raise ValueError("the second one")
        done.append(number)
        return number

    with make_thread() as thread:
        results = prefetch(range(10), work, thread, depth=1)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ValueError, match="the second one"):
            next(results)
    assert count_threads() == 0
    assert max(done) <= 3


def test_leaving_early_cancels_queued_calls_and_waits_for_nothing() -> None:
    hold, begun = threading.Event(), threading.Event()
    done: list[int] = []

    def work(number: int) -> int:
        if number == 1:
            begun.set()
            hold.wait(timeout=30)
        done.append(number)
        return number

    with make_thread() as thread:
        results = prefetch(range(10), work, thread, depth=3)
        next(results)
        assert begun.wait(timeout=30)
        results.close()
        assert done == [0]
        # Other work begins when that is done, so that two never share what serves one thread.
        others = prefetch(range(20, 22), work, thread)
        hold.set()
        assert list(others) == [20, 21]
        assert done == [0, 1, 20, 21]
    assert count_threads() == 0

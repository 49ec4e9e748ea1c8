"""Signals that arrive while finished rows are flushed are deferred, and none is lost."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest
from prefect.exceptions import TerminationSignal

from tasks.core.signals import deferring_signals, stop_on_sigterm, waking_main_thread

# Seconds: longer than any test takes.
NEVER = 30.0


def test_a_signal_in_the_body_raises_after_it() -> None:
    handler = signal.getsignal(signal.SIGINT)
    reached: list[str] = []

    def interrupt() -> None:
        with deferring_signals():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            reached.append("the end")

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert reached == ["the end"]
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_thread_that_can_defer_none_goes_on_all_the_same() -> None:
    names: list[str] = []

    def work() -> None:
        with deferring_signals():
            names.append(threading.current_thread().name)

    thread = threading.Thread(target=work, name="other")
    thread.start()
    thread.join()
    assert names == ["other"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_interrupts_no_wait_is_raised_all_the_same(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    handler = signal.getsignal(signal.SIGTERM)
    stop_on_sigterm()
    blocked = threading.Event()

    def send() -> None:
        blocked.wait()
        time.sleep(0.2)
        os.kill(os.getpid(), number)

    try:
        with waking_main_thread():
            threading.Thread(target=send).start()
            # As if it came just before the wait: the kernel gives it to a thread that does not block it.
            signal.pthread_sigmask(signal.SIG_BLOCK, {number})
            begun = time.monotonic()
            with pytest.raises((KeyboardInterrupt, SystemExit)):
                wait_for_nothing(blocked)
            assert time.monotonic() - begun < NEVER / 2
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        signal.signal(signal.SIGTERM, handler)


def wait_for_nothing(begun: threading.Event) -> None:
    begun.set()
    threading.Event().wait(NEVER)


@pytest.mark.parametrize("raised", [KeyboardInterrupt, TerminationSignal])
def test_a_signal_that_arrives_in_a_finalizer_is_sent_again(
    raised: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    handler = signal.getsignal(signal.SIGTERM)
    stop_on_sigterm()
    signal.signal(signal.SIGTERM, handler)
    monkeypatch.setattr(os, "kill", lambda _pid, number: sent.append(number))

    class Raising:
        def __del__(self) -> None:
            raise raised(signal.SIGTERM)

    Raising()
    assert sent == [signal.SIGINT if raised is KeyboardInterrupt else signal.SIGTERM]

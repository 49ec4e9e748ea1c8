"""Signals that arrive while finished rows are flushed are deferred, and none is lost."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from tasks.core.signals import deferring_signals


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

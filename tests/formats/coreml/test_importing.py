"""Core ML Tools swallows an interrupt while it is imported: it has to wait until then, and is not to be lost."""

from __future__ import annotations

import contextlib
import os
import signal
import threading

import pytest

from compressor.formats.coreml.importing import uninterrupted


def test_an_interrupt_waits_and_is_not_lost() -> None:
    def imported() -> None:
        with uninterrupted(), contextlib.suppress(BaseException):  # as Core ML Tools does
            os.kill(os.getpid(), signal.SIGINT)
            reached.append("the end of the import")

    before, reached = signal.getsignal(signal.SIGINT), []
    with pytest.raises(KeyboardInterrupt):
        imported()
    assert reached == ["the end of the import"]
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_and_an_ignored_signal_change_nothing() -> None:
    def inside() -> None:
        with uninterrupted():
            seen.append(signal.getsignal(signal.SIGINT))

    seen: list[object] = []
    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        inside()
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [before, signal.SIG_IGN]

"""How a run is asked to stop: SIGINT (Ctrl-C) and SIGTERM.

The step under way is finished and saved. A step of a large network on a processor can
take minutes, though, and whoever sends SIGTERM kills the process soon after. So in a
process of our own, the command line's, a thread waits beside the loop: where the step
is not done within PATIENCE seconds it writes down the run as it was before that step,
whose weights have not moved yet, and ends the process, DEADLINE seconds after the
signal at the latest. Chapter: 10 "Training".
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

PATIENCE = 0.5  # seconds for a step to end by itself
DEADLINE = 8.5  # seconds until the process ends, whatever it does
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ours = threading.Event()  # whether the process may be ended


@contextlib.contextmanager
def our_process() -> Iterator[None]:
    """While this lasts, a run that is asked to stop may end the process."""
    _ours.set()
    try:
        yield
    finally:
        _ours.clear()


@contextlib.contextmanager
def stop_signal(leave: Callable[[], str]) -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, while the block runs in the main thread.

    Where the process is ours and the block goes on after a signal for longer than
    PATIENCE, `leave` is called in a thread: it saves what there is, and says what that
    was. Then the process ends, with status 1.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {s: signal.signal(s, lambda *_: event.set()) for s in SIGNALS}
    try:
        with _watched(leave) if _ours.is_set() else contextlib.nullcontext():
            yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _watched(leave: Callable[[], str]) -> Iterator[None]:
    """A thread beside the block that hears of signals at once: Python's own handlers
    wait for the operation that the main thread is in, and one may take many seconds.
    """
    heard, ring = socket.socketpair()
    ring.setblocking(False)
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(heard, over, leave), daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(ring.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(before)
        ring.close()  # the thread reads the end
        thread.join()
        heard.close()


def _watch(heard: socket.socket, over: threading.Event, leave: Callable[[], str]):
    while number := heard.recv(1):
        if number[0] in SIGNALS:
            break
    else:
        return
    began = time.monotonic()
    if over.wait(PATIENCE):
        return
    saying = threading.Thread(target=lambda: _end(leave()), daemon=True)
    saying.start()
    if over.wait(max(0.0, began + DEADLINE - time.monotonic())):
        saying.join()  # the step came to its end, and waits for what is being written
        return
    _end("stopped in the middle of a step, without the time to save it")


def _end(what: str) -> None:
    if what:
        print(f"\nhkd-mini: {what}; go on with --resume", file=sys.stderr, flush=True)
        os._exit(1)

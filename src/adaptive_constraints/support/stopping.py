"""Ctrl-C and SIGTERM while something trains: it stops at its next safe point, where all of it can be saved.

Signals reach the main thread alone, and so does all of this. A program that handles a signal itself stays in charge.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn


class Stopped(BaseException):
    """Leaves what cannot go on after a stop was asked for; `stoppable` takes it up."""


class Terminated(BaseException):
    """SIGTERM as an exception of a command, as `KeyboardInterrupt` is Ctrl-C."""


def terminate(signum: int, frame: FrameType | None) -> NoReturn:
    """As a handler of SIGTERM: raise `Terminated`."""
    raise Terminated("terminated")


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM raises `Terminated`, so that what is open is closed; for commands."""
    usual = signal.getsignal(signal.SIGTERM)
    if usual is not signal.SIG_DFL or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, usual)


_USUAL = (signal.SIG_DFL, signal.default_int_handler, terminate)
"""Handlers that only end what runs."""


class _State:
    asked: int | None = None
    """The signal that asked for a stop."""
    said: str = ""
    """The place where it stopped, and how to go on."""
    inside: bool = False

    def taken(self) -> int | None:
        """The signal, which is thereby answered."""
        number, self.asked = self.asked, None
        return number


_state = _State()


def asked() -> bool:
    """Tell whether this thread is to stop at its next safe point."""
    return _state.asked is not None and threading.current_thread() is threading.main_thread()


def stop(said: str) -> NoReturn:
    """Leave, where `asked` is True; ``said`` is where it stopped, and how to go on."""
    explain(said)
    raise Stopped


def explain(said: str) -> None:
    """Say where it stopped, and how to go on, once everything is closed."""
    _state.said = said


@contextmanager
def stoppable(saving: bool) -> Iterator[None]:
    """Inside, Ctrl-C only asks for a stop; a second one does not wait. On leaving, the signal has its usual effect.

    saving: SIGTERM asks for a stop too.

    `KeyboardInterrupt` then says where it stopped and how to go on; SIGTERM ends the process after a line that does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if _state.inside:  # the outer one ends it all
        yield
        if asked():
            raise Stopped
        return
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, *((signal.SIGTERM,) if saving else ()))}
    usual = {number: handler for number, handler in usual.items() if handler in _USUAL}
    _state.asked, _state.said, _state.inside = None, "", True
    for number in usual:
        signal.signal(number, _ask(usual))
    try:
        yield
    except Stopped:
        pass
    finally:
        _state.inside = False
        _restore(usual)
    if (number := _state.taken()) is not None:
        _end(number, usual[signal.Signals(number)], _state.said)


def _ask(usual: dict[signal.Signals, Any]) -> Callable[[int, FrameType | None], None]:
    def ask(signum: int, frame: FrameType | None) -> None:
        if _state.asked is not None:
            _restore(usual)
            signal.raise_signal(signum)
        _state.asked = signum

    return ask


def _restore(usual: dict[signal.Signals, Any]) -> None:
    for number, handler in usual.items():
        signal.signal(number, handler)


def _end(number: int, handler: Any, said: str) -> None:
    """Do what the signal would have done at once."""
    if handler is signal.default_int_handler:
        raise KeyboardInterrupt(said)
    print(said, file=sys.stderr, flush=True)
    signal.raise_signal(number)


__all__ = ["Stopped", "Terminated", "asked", "explain", "stop", "stoppable", "terminable", "terminate"]

"""Errors and limits of Jinja templates; an error is one line with the template's own line number."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TEMPLATE_FILE = "<template>"  # Jinja's file name for a template compiled from a string
MAX_CPU_SECONDS = 5.0
MAX_CHARS = 1_000_000


class TemplateFailure(Exception):
    """A template raised an error; the message has its line and reason."""


class TemplateTooSlow(TemplateFailure):
    """A template ran for more than MAX_CPU_SECONDS, so it is not tried on further problems."""


@contextmanager
def template_limits() -> Iterator[None]:
    """Turn errors of the block, which renders or compiles a template, and an endless loop in it into TemplateFailure.

    Only the main thread, where commands render prompts, can be interrupted.
    """
    try:
        with _cpu_limit():
            yield
    except TemplateFailure:
        raise
    except Exception as error:  # noqa: BLE001 - a template is foreign code and may raise anything
        raise TemplateFailure(where_and_why(error)) from None


@contextmanager
def _cpu_limit() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _stop)
    # CPU time, because a busy machine is no endless loop.
    signal.setitimer(signal.ITIMER_VIRTUAL, MAX_CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise TemplateTooSlow(f"it runs for more than {MAX_CPU_SECONDS:g} seconds: does it loop forever?")


def checked(text: str) -> str:
    """Return the output of a template. Raises TemplateFailure for one that no prompt can be."""
    if len(text) > MAX_CHARS:
        raise TemplateFailure(f"its output has {len(text):,} characters, more than {MAX_CHARS:,}")
    if half := lone_surrogate(text):
        raise TemplateFailure(f"its output holds {half}, half of a character (a UTF-16 surrogate)")
    return text


def lone_surrogate(text: str) -> str:
    """Return the first lone surrogate of a text, as its escape; empty if there is none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return ascii(text[error.start])
    return ""


def where_and_why(error: Exception) -> str:
    """Return one line about an error in a template, with its line if known."""
    line = getattr(error, "lineno", None)
    frame = error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == TEMPLATE_FILE:  # Jinja sets the line numbers to those of the template
            line = frame.tb_lineno
        frame = frame.tb_next
    reason = " ".join(str(error).split()).rstrip(".") or "no reason given"
    place = f"line {line}: " if line else ""
    return f"{place}{type(error).__name__}: {reason[:300]}"

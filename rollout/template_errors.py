"""Errors of Jinja templates, as one line with the template's own line number."""

TEMPLATE_FILE = "<template>"  # Jinja's file name for a template compiled from a string


class TemplateFailure(Exception):
    """A template raised an error; the message has its line and reason."""


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

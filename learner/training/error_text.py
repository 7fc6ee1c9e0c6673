"""One-line texts of other libraries' errors."""


def describe_error(error: BaseException) -> str:
    """Return type and first line of an error; the chain of causes keeps the rest."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__

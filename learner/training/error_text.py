"""What another library's error says, in one line."""


def describe_error(error: BaseException) -> str:
    """Type and first line of an error; the rest stays in the chain of causes."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__

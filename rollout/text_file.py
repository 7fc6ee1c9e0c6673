"""Reading of the files that the ``prompt`` section names."""

from pathlib import Path


def read_text_file(path: Path) -> str:
    """Return the text of a file, without a byte order mark. Raises ValueError with the reason."""
    try:
        path = path.expanduser()
        path.stat()
        if not path.is_file() and not path.is_dir():
            raise ValueError("it is no regular file")  # a device never ends, and a pipe may never begin
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    except RuntimeError:
        raise ValueError("the home folder is unknown") from None

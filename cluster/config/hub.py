"""Availability of the Hugging Face hub, checked within seconds, and of models and datasets in its local cache."""

import os
import ssl
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path

TIMEOUT_SECONDS = 5.0


@cache
def unreachable_reason() -> str | None:
    """Reason why the hub does not answer; None if it does, or if HF_HUB_OFFLINE forbids requests.

    The hub's own client retries each request for half a minute before it reports the same error.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return None
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS).close()
    except urllib.error.HTTPError:
        return None  # the hub answers, if only with an error
    except (OSError, ValueError) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, ssl.SSLError):
            return None  # the hub's client may have certificates of its own
        return f"{constants.ENDPOINT} does not answer: {getattr(cause, 'strerror', None) or cause}"
    return None


def is_cached_model(name: str) -> bool:
    """Return True if the hub's cache on this machine has a model, which then loads without a network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:
        return False


def is_cached_dataset(name: str) -> bool:
    """Return True if the cache of ``datasets`` on this machine has a data set, which then loads without a network."""
    import datasets

    return (Path(os.fspath(datasets.config.HF_DATASETS_CACHE)) / name.replace("/", "___")).is_dir()

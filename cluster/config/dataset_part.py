"""Selection of a part of a dataset."""

from dataclasses import asdict, dataclass

from cluster.errors import DatasetError

DEFAULT_SPLIT = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Split, configuration and revision of a dataset that has several."""

    split: str | None = None  # None: DEFAULT_SPLIT
    config: str | None = None
    revision: str | None = None

    def refuse(self, *keys: str, because: str) -> None:
        """Raise DatasetError if one of these keys is set; ``because`` says why it has no effect."""
        for key, value in asdict(self).items():
            if key in keys and value is not None:
                raise DatasetError(f"data.{key}={value} has no effect: {because}; leave it out")


WHOLE = Part()

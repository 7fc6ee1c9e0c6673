"""Sources of data sets: a local file, a folder of files, a folder written by ``save_to_disk``, the Hugging Face hub."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.config.dataset_part import DEFAULT_SPLIT, Part
from cluster.config.hub import is_cached_dataset, unreachable_reason
from cluster.errors import DatasetError
from cluster.problems.dataset_files import Row, ending_of, endings, read_file

BUILTIN = "builtin"
"""Name of the built-in problems."""


def read_source(dataset: str, part: Part, wanted: Collection[str]) -> Sequence[Row]:
    """Read the rows of a data set. ``wanted`` are the names of known columns. Raises DatasetError."""
    path = Path(dataset).expanduser()
    if path.is_dir():
        part.refuse("revision", because=f"{dataset} is a folder")
        return _read_folder(path, part, wanted)
    if path.exists() and not ending_of(path):
        raise DatasetError(f"data set {dataset}: a local file must end in {endings()}")
    if ending_of(path) or dataset.startswith(("/", "./", "../", "~")):
        if not path.is_file():
            raise DatasetError(f"data set {dataset}: no such file")
        part.refuse("split", "config", "revision", because=f"{dataset} is a single file")
        return read_file(path, wanted)
    return _read_hub(dataset, part)


def unavailable_reason(dataset: str) -> str | None:
    """Reason why a data set cannot be read on this machine, with advice; None if nothing is known against it.

    Neither the content of files nor the names of data sets on the hub are looked up.
    """
    path = Path(dataset).expanduser()
    if path.exists() or dataset == BUILTIN:
        return None
    if ending_of(path) or dataset.startswith(("/", "./", "../", "~")):
        return (
            "the driver's machine has no such file. Put it where the driver can read it; for `caravan submit`, that is the head "
            "of the cluster, or the working directory, which is uploaded"
        )
    if not is_cached_dataset(dataset) and (reason := unreachable_reason()):
        return (
            f"there is no such file, and the Hugging Face hub cannot be reached ({reason}). Give a local file or folder, "
            f"or '{BUILTIN}' for the built-in problems"
        )
    return None


def _read_folder(path: Path, part: Part, wanted: Collection[str]) -> Sequence[Row]:
    import datasets
    import yaml
    from datasets.exceptions import DatasetsError

    try:
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            part.refuse("config", because=f"{path} was written by save_to_disk and has one configuration")
            saved = datasets.load_from_disk(str(path))
            if isinstance(saved, datasets.DatasetDict):
                return list(saved[_split(str(path), part, list(saved))])
            part.refuse("split", because=f"{path} was written by save_to_disk without splits")
            return list(saved)
        # The builder assigns files to splits as the hub does. The rows are read here, because the library rejects a whole file
        # for one bad row.
        files = datasets.load_dataset_builder(str(path.resolve()), part.config).config.data_files
    except (OSError, ValueError, DatasetsError, yaml.YAMLError) as error:  # YAMLError: from the settings in a README
        raise DatasetError(_of_config(str(path), error) or f"{path} cannot be read: {_first_line(error)}") from None
    split = _split(str(path), part, [str(name) for name in files])
    chosen = [Path(name) for name in sorted(files[split])]
    unreadable = [file for file in chosen if not ending_of(file)]
    if unreadable:
        raise DatasetError(f"{unreadable[0]} cannot be read: its name must end in {endings()}")
    rows = [row for file in chosen for row in read_file(file, wanted)]
    return [*rows, *(_files_without_split(path, files) if not (path / "README.md").exists() else ())]


def _files_without_split(path: Path, files: Mapping[Any, Sequence[str]]) -> list[str]:
    """Return a line for each data file that belongs to no split: its type differs from most, or its name has no split."""
    used = {Path(name) for names in files.values() for name in names}
    others = (file for file in sorted(path.resolve().iterdir()) if ending_of(file) and file.suffix.lower() != ".json")
    splits = ", ".join(map(str, files))
    return [f"{file.name} is not read: it belongs to no split ({splits})" for file in others if file not in used]


def _read_hub(dataset: str, part: Part) -> Sequence[Row]:
    import datasets
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    if not is_cached_dataset(dataset) and (reason := unreachable_reason()):
        raise DatasetError(
            f"data set {dataset}: no such file, and the Hugging Face hub cannot be reached ({reason}). Give a local file or "
            f"folder, or '{BUILTIN}' for the built-in problems"
        )
    split = part.split or DEFAULT_SPLIT
    try:
        return list(datasets.load_dataset(dataset, part.config, split=split, revision=part.revision))
    except DatasetNotFoundError as error:
        if part.revision and "revision" in str(error).lower():
            raise DatasetError(f"data.revision={part.revision}: {_first_line(error)}") from None
        raise DatasetError(
            f"data set {dataset}: no such file, and no such data set on the Hugging Face hub; "
            "check the name and the network; log in with `hf auth login` if the data set is private"
        ) from None
    except ConnectionError as error:
        hint = "is there a network? Otherwise use a local file or 'builtin'"
        raise DatasetError(f"data set {dataset} cannot be read: {_first_line(error)} ({hint})") from None
    except ValueError as error:
        if text := _of_config(dataset, error):
            raise DatasetError(text) from None
        if "split" in str(error).lower():
            _split(dataset, part, datasets.get_dataset_split_names(dataset, part.config, revision=part.revision))
        raise DatasetError(f"data set {dataset} cannot be read: {_first_line(error)}") from None
    except (OSError, RuntimeError, DatasetsError) as error:
        raise DatasetError(f"data set {dataset} cannot be read: {_first_line(error)}") from None


def _split(dataset: str, part: Part, there: Sequence[str]) -> str:
    """Return the name of the selected split. Raises DatasetError with the existing names if there is none."""
    split = part.split or DEFAULT_SPLIT
    if split not in there:
        raise DatasetError(
            f"{dataset} has no split {split!r}; it has {', '.join(there)}: choose one with data.split=NAME "
            "(`caravan audit` and `filter`: --split NAME)"
        )
    return split


def _of_config(dataset: str, error: Exception) -> str:
    """Return a message with the configurations if the error is about them, else an empty text."""
    text = str(error)
    if "Config name is missing" not in text and "BuilderConfig" not in text:
        return ""
    names = text[text.find("[") + 1 : text.find("]")].replace("'", "") if "[" in text else "unknown"
    what = f"no configuration {text.split(chr(39))[1]!r}" if "BuilderConfig" in text else "several configurations"
    return (
        f"{dataset} has {what}; it has {names}: choose one with data.config=NAME (`caravan audit` and `filter`: "
        "--data-config NAME)"
    )


def _first_line(error: Exception) -> str:
    return (str(error.__cause__ or error).strip() or type(error).__name__).splitlines()[0]

"""Loading of the configuration: defaults < YAML file < environment < command line."""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.config.config import LENGTH, Config, assign, leaves, validate
from cluster.config.environment import ENVIRONMENT, NOT_USED, read_environment
from cluster.config.keys import (
    RENAMED,
    deprecation,
    fields_of,
    is_text,
    keys,
    old_name,
    rename_old_keys,
    resolve_key,
    sections,
)
from cluster.config.yaml_text import parse_yaml
from cluster.errors import ConfigError


def load_config(
    path: Path | None,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    log: Callable[[str], None] = lambda _line: None,
) -> Config:
    """Return the configuration from a YAML file (or None), the environment (default: the process's) and overrides.

    ``log`` takes a line about settings from the environment and one about old names of keys. Raises ConfigError, which names
    the key, the value and the allowed values.
    """
    tree, old_names = _read_yaml(path) if path else ({}, [])
    settings = read_environment(os.environ if environment is None else environment, keys())
    _overlay(tree, settings.values.items())
    given, old_overrides = _parse_overrides(overrides)
    _overlay(tree, given)
    try:
        config = validate(tree)
    except ConfigError as error:
        raise ConfigError(_with_variables(str(error), settings.variables, dict(given))) from None
    for line in settings.lines(overridden=dict(given)):
        log(line)
    if deprecated := list(dict.fromkeys([*old_names, *old_overrides])):
        log(deprecation(deprecated))
    if path and config.run.name is None:
        assign(tree, "run.name", path.stem)
        return validate(tree)
    return config


def parse_override(override: str) -> tuple[str, Any]:
    """Return the dotted key and the plain value of a ``key=value``; raises ConfigError."""
    key, separator, text = override.partition("=")
    if not separator:
        raise ConfigError(f"{override!r} is not an override: write key=value, for example rollout.temperature=1.1")
    resolved = resolve_key(key.strip())
    bare = text.strip()
    if is_text(resolved) and bare.lower() not in ("", "~", "null") and bare[0] not in "\"'":
        return resolved, bare  # a name such as 1.10 or 2026-11-22 is not a number or a date
    return resolved, parse_yaml(text, override)


def explain_keys() -> str:
    """Return a text with every key, its default, the environment variable that sets it, and its meaning."""
    lines = []
    for key, info in fields_of(Config):
        variables = [f"[{variable}]" for variable, named in ENVIRONMENT.items() if named == key]
        lines.append(" ".join([f"{key} = {info.default}", *variables]))
        lines.extend([f"    {info.description}"] if info.description else [])
    lines.append("\nOld names, accepted for one release:")
    lines.extend(f"{old}\n    now {new}" for old, new in RENAMED.items())
    lines.append("\nEnvironment variables that set no key:")
    lines.extend(f"{variable}\n    {reason}" for variable, reason in NOT_USED.items())
    return "\n".join(lines)


def _parse_overrides(overrides: Sequence[str]) -> tuple[list[tuple[str, Any]], list[str]]:
    """Keys and values of overrides, and the old names among the keys. Raises ConfigError if both names are given."""
    given = [parse_override(override) for override in overrides]
    names = [override.partition("=")[0].strip() for override in overrides]
    old_names = {key: old for (key, _), name in zip(given, names, strict=True) if (old := old_name(name))}
    for (key, _), name in zip(given, names, strict=True):
        if key in old_names and not old_name(name):
            raise ConfigError(f"{old_names[key]} is the old name of {key}, and both are given: keep {key}")
    return given, list(old_names.values())


def _with_variables(message: str, variables: Mapping[str, str], given: Mapping[str, Any]) -> str:
    """An error message with the environment variables that set the keys it names."""
    named = [
        f"{key} is set by the environment variable {variable}"
        for key, variable in variables.items()
        if key not in given and re.search(rf"{re.escape(key)}(?!\w)", message)
    ]
    return f"{message} ({'; '.join(named)})" if named else message


def _read_yaml(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The tree of a YAML file under new names, and the old names found in it."""
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"cannot read the configuration {path}: it is not UTF-8 text") from None
    if not isinstance(tree, dict | None):
        raise ConfigError(f"{path} must hold sections such as 'rollout:', not {type(tree).__name__}")
    try:
        top, top_names = rename_old_keys({str(name): value for name, value in (tree or {}).items()})
        nested, old_names = rename_old_keys(_nested(top))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    by_end = [old for name in tree or {} if (old := old_name(str(name)))]
    return nested, list(dict.fromkeys([*top_names, *old_names, *by_end]))


def _nested(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with dotted keys, and ends of keys, moved into their sections. Raises ConfigError for a key given twice."""
    # YAML reads a section whose keys are all commented out as None.
    nested: dict[str, Any] = {
        name: dict(value) if isinstance(value, dict) else {} if value is None else value
        for name, value in tree.items()
        if name in Config.model_fields
    }
    given_as: dict[str, str] = {}
    for name, value in tree.items():
        if name in Config.model_fields:
            continue
        key = name
        if key.partition(".")[0] not in Config.model_fields:
            key = resolve_key(key, in_sections=isinstance(value, dict))
        for leaf, plain in leaves({key: value}, "") if key in sections() else ((key, value),):
            if leaf in dict(leaves(nested, "")):
                other = f" and once under {given_as[leaf]!r}" if leaf in given_as else ""
                raise ConfigError(f"{leaf} is given twice, once under {name!r}{other}: keep one")
            assign(nested, leaf, plain)
            given_as[leaf] = name
    return nested


def _overlay(tree: dict[str, Any], values: Iterable[tuple[str, Any]]) -> None:
    """Set values in the tree. The run length has two keys; a value for either of them replaces both."""
    new_values = list(values)
    if any(key in LENGTH for key, _ in new_values):
        for key in LENGTH:
            assign(tree, key, None)
    for key, value in new_values:
        assign(tree, key, value)

"""Dotted keys of the configuration: their fields, traits, old names and resolution from short forms."""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cluster.config.sections import Sections
from cluster.errors import ConfigError
from cluster.setting_traits import Trait
from learner.trl_names import REFUSED as REFUSED_LEARNER_OPTIONS

RENAMED: Mapping[str, str] = {
    "rollout.policy_swap": "rollout.weight_sync_mode",
    "rollout.canary_tolerance": "rollout.weight_sync_tolerance",
    "rollout.num_few_shot": "prompt.num_few_shot",
    "rollout.prompt_date": "prompt.date",
    "phases": "schedule",
    "branches": "resume_overrides",
}
"""Old key -> new key. Old names are accepted for one release, in files, overrides and run directories."""

REFUSED = {
    f"rollout.{name}": "training completions are sampled from the whole distribution. With a truncated distribution the "
    "sampler's policy is not the one that the learner's ratio compares with, and the gradient is biased. "
    f"Lower rollout.temperature instead; evaluation.{name} truncates the distribution in evaluations"
    for name in ("top_p", "top_k", "min_p")
} | {
    "learner.lora.target_parameters": "weights of experts are frozen. vLLM computes adapters of experts in kernels for GPUs, "
    "reads PEFT's format of them for few models, and Caravan could not compare the loaded weights with the published ones"
}
"""Keys of other trainers that would bias training here, or that samplers could not serve, with the reason."""


def fields_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield the dotted key and the field of every leaf of a tree of settings."""
    for name, info in model.model_fields.items():
        section = info.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from fields_of(section, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", info


def keys() -> Iterator[str]:
    """Yield every dotted key of the configuration."""
    yield from (key for key, _ in fields_of(Sections))
    yield from ("schedule", "resume_overrides")


def keys_with(trait: Trait) -> tuple[str, ...]:
    """Return the keys with a trait, in the order of the configuration."""
    return tuple(key for key, info in fields_of(Sections) if trait in info.metadata)


def sections(model: type[BaseModel] = Sections, prefix: str = "") -> Iterator[str]:
    """Yield the dotted key of every section."""
    for name, info in model.model_fields.items():
        section = info.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield f"{prefix}{name}"
            yield from sections(section, f"{prefix}{name}.")


def mappings() -> Iterator[str]:
    """Yield the dotted keys whose value is a mapping with names of its own."""
    for key, info in fields_of(Sections):
        if any(get_origin(kind) is dict for kind in (info.annotation, *get_args(info.annotation))):
            yield key


def resolve_key(key: str, *, in_sections: bool = False) -> str:
    """Return the full key for a dotted key, an old name, or an unambiguous end (``temperature``: ``rollout.temperature``).

    A key may name an entry of a mapping (``chat_template_kwargs.enable_thinking``), or an entry of an entry. With
    ``in_sections`` the key is that of a section (``lora``: ``learner.lora``). Raises ConfigError for any other key.
    """
    known = list(sections()) if in_sections else list(keys())
    if key in known:
        return key
    parts = key.split(".")
    for length in range(1, len(parts)):
        parent, entry = ".".join(parts[:length]), ".".join(parts[length:])
        if mapping := next((name for name in mappings() if f".{name}".endswith(f".{parent}")), None):
            return f"{mapping}.{entry}"
    if old := old_name(key):
        return RENAMED[old]
    if key in REFUSED:
        raise ConfigError(f"{key}: {REFUSED[key]}")
    if (option := key.removeprefix("learner.")) in REFUSED_LEARNER_OPTIONS and not (
        key == option and any(candidate.endswith(f".{key}") for candidate in known)
    ):
        raise ConfigError(f"learner.{option}: {REFUSED_LEARNER_OPTIONS[option]}")
    matches = [candidate for candidate in (*known, *REFUSED) if candidate.endswith(f".{key}")]
    if len(matches) == 1:
        return matches[0]
    if matches:
        reasons = "".join(f"; {match} cannot be set: {REFUSED[match]}" for match in matches if match in REFUSED)
        raise ConfigError(f"{key!r} is ambiguous: {', '.join(matches)}{reasons}")
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    near += [candidate for candidate in known if candidate.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    hint = f"; did you mean {', '.join(dict.fromkeys(near))}?" if near else ""
    raise ConfigError(f"unknown key {key!r}{hint}")


def old_name(key: str) -> str | None:
    """Return the full old name for a key or the end of a key; None if it is not an old name."""
    return next((old for old in RENAMED if key == old or old.endswith(f".{key}")), None)


def rename_old_keys(tree: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a tree of plain values with new names for old ones, and the old names found.

    Raises ConfigError if both names of a setting are given.
    """
    renamed = {name: dict(value) if isinstance(value, Mapping) else value for name, value in tree.items()}
    found = []
    for old, new in RENAMED.items():
        *section, name = old.split(".")
        parent = renamed.get(section[0]) if section else renamed
        if not isinstance(parent, dict) or name not in parent:
            continue
        *new_section, new_name = new.split(".")
        target = parent if new_section == section else renamed.get(new_section[0])
        if target is None:
            target = renamed[new_section[0]] = {}
        if not isinstance(target, dict):
            continue  # the message about a section that is given a single value follows
        if new_name in target:
            raise ConfigError(f"{old} is the old name of {new}, and both are given: keep {new}")
        target[new_name] = parent.pop(name)
        found.append(old)
    return renamed, found


def deprecation(old_names: list[str]) -> str:
    """Return the log line about old names of keys."""
    return f"deprecated names of settings: {', '.join(f'{old} is now {RENAMED[old]}' for old in old_names)}"


def is_text(key: str) -> bool:
    """Return True if the value of a dotted key is a text or a path, and nothing else."""
    info = dict(fields_of(Sections)).get(key)
    return info is not None and info.annotation in (str, str | None, Path, Path | None)

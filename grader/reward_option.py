"""The command line option ``--reward [NAME][,key=value...]``: a profile and overrides."""

import difflib
from typing import Any

from pydantic import ValidationError

from cluster.errors import ConfigError
from grader.profiles import profile_named
from grader.reward import profile_of
from grader.settings import GraderSettings, ThoughtTokenSettings, WeightSettings

WEIGHTS = tuple(WeightSettings.model_fields)
OVERRIDES = ("min_code_lines", "runaway_multiplier", "degenerate_multiplier", "shown_assert_weight")
SECTIONS = ("weights", "thought_tokens")
KEYS = (*WEIGHTS, *OVERRIDES, *(f"thought_tokens.{name}" for name in ThoughtTokenSettings.model_fields))


def parse_reward_option(text: str) -> dict[str, Any]:
    """Parse the option to GraderSettings fields: ``reward`` if it has a NAME, sections and overrides as numbers.

    Raises ConfigError for an unknown name or key, a key given twice, and a value out of range.
    """
    tree: dict[str, Any] = {}
    first, *others = (part.strip() for part in text.split(","))
    if "=" in first:
        others.insert(0, first)
    else:
        tree["reward"] = first
        profile_named(first)
    given = set()
    for part in others:
        key, separator, value = (piece.strip() for piece in part.partition("="))
        key = key.removeprefix("weights.")
        if not separator or key not in KEYS:
            close = difflib.get_close_matches(key, KEYS, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise ConfigError(f"--reward: {part!r} is not key=value with one of {', '.join(KEYS)}{hint}")
        if key in given:
            raise ConfigError(f"--reward: {key} is given twice")
        given.add(key)
        section, _, name = f"weights.{key}".rpartition(".") if key in WEIGHTS else key.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[name] = value
    return _checked(tree).model_dump(exclude_unset=True)


def with_reward_option(text: str, settings: GraderSettings) -> GraderSettings:
    """Apply the option to settings; without a NAME it changes only the given keys of their reward.

    Raises ConfigError as parse_reward_option and profile_of do.
    """
    given = parse_reward_option(text)
    kept = settings.model_dump()
    if "reward" in given:
        kept = {key: value for key, value in kept.items() if key not in (*SECTIONS, *OVERRIDES)}
    sections = {name: {**kept.get(name, {}), **given.get(name, {})} for name in SECTIONS}
    changed = _checked({**kept, **given, **sections})
    try:
        profile_of(changed)
    except ConfigError as error:
        raise ConfigError(f"--reward {text}: {error}") from None
    return changed


def _checked(tree: dict[str, Any]) -> GraderSettings:
    try:
        return GraderSettings.model_validate(tree)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(f"--reward: {problem['loc'][-1]}={problem['input']}: {problem['msg']}") from None

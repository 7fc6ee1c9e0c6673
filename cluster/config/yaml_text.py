"""YAML parser that refuses repeated keys."""

from typing import Any

import yaml

from cluster.errors import ConfigError


def parse_yaml(text: str, source: str) -> Any:
    """Parse a YAML text; ``source`` names its file or option in messages.

    Raises ConfigError if the text is not YAML or repeats a key.
    """
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or "cannot be read"
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ConfigError(f"{source} is not YAML: {problem}{place}") from None
    except _RepeatedKeyError as error:
        raise ConfigError(f"{source}: {error}") from None


class _RepeatedKeyError(Exception):
    """A mapping has a key twice; YAML's own loader silently keeps the last value."""


class _UniqueKeyLoader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise _RepeatedKeyError(
                    f"{key.value!r} is given twice, in lines {lines[key.value]} and {line}: keep one"
                )
            lines[key.value] = line
        return super().construct_mapping(node, deep)

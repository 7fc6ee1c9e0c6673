"""YAML: a parser that refuses repeated keys, and a writer that keeps the lines of texts."""

from typing import Any

import yaml

from cluster.errors import ConfigError

MAX_SHOWN_CHARS = 200  # of a text in a message


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
    except (ValueError, RecursionError) as error:  # a date such as 2026-13-45, thousands of digits or brackets
        raise ConfigError(f"{source[:MAX_SHOWN_CHARS]} is not YAML: {error}") from None


def dump_yaml_text(tree: Any) -> str:
    """Return plain values as YAML; a text with several lines is written as such."""
    return str(yaml.dump(tree, Dumper=_BlockDumper, sort_keys=False, allow_unicode=True))


class _BlockDumper(yaml.SafeDumper):
    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


_BlockDumper.add_representer(str, _BlockDumper.represent_str)


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

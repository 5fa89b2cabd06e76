"""YAML as it is written: what its scalars mean is for the field they are given to.

YAML 1.1 would guess: `no` is false to it, 010 is 8, 1:30 is 90, and 1e-1 a text.
"""

from __future__ import annotations

from typing import Any

import yaml

_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")}


class Unquoted(str):
    """A scalar without quotes, or the value of a `--set`: its field may read it as a number, true, false or null."""


def read_yaml(text: str) -> Any:
    """Dicts, lists and texts, of which those without quotes are Unquoted; None where nothing or `~` stands.

    Raises:
        ValueError: it is no YAML, gives a key twice, is nested too deeply, or has tags or anchors that are used again:
            settings need none, and a few of them make a small file huge.
    """
    try:
        node = yaml.compose(text, yaml.BaseLoader)
        return None if node is None else _value(node, set())
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _value(node: yaml.Node, seen: set[int]) -> Any:
    line = node.start_mark.line + 1
    if id(node) in seen:
        raise ValueError(f"line {line}: an anchor cannot be used again; write the value where it is wanted")
    seen.add(id(node))
    if node.tag not in _TAGS:
        raise ValueError(f"line {line}: the tag {node.tag} means nothing here; leave it out")
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, seen) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, seen)
    if isinstance(node, yaml.ScalarNode) and node.style is not None:  # in quotes, or a block
        return node.value
    return None if node.value in ("", "~") else Unquoted(node.value)


def _mapping(node: yaml.MappingNode, seen: set[int]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"line {line}: a key must be a text")
        if key.value in mapping:
            raise ValueError(f"line {line}: {key.value} is given twice; leave one out")
        mapping[key.value] = _value(value, seen)
    return mapping

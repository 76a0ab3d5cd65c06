"""YAML as people write it: without code, and without a key that is given twice."""

from __future__ import annotations

from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys and says nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if (key := (key_node.tag, str(key_node.value))) in seen:
                line = key_node.start_mark.line + 1
                raise yaml.YAMLError(f"{key_node.value} is given twice (line {line}); write all of it under one key")
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_yaml(text: str) -> Any:
    """The content of a YAML text.

    Raises:
        yaml.YAMLError: it is no YAML, or a mapping has a key twice.
    """
    return yaml.load(text, _Loader)  # noqa: S506 - derived from the safe loader

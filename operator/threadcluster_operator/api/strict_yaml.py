"""YAML documents, without a key that is given twice: YAML forbids it, and PyYAML silently keeps the last one."""

from collections.abc import Iterator
from typing import Any

import yaml


class DuplicateKey(yaml.YAMLError):
    """A mapping has a key twice; the message says where."""


class _Loader(yaml.SafeLoader):
    """The safe loader, which also refuses duplicate keys."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:  # their stub takes it for a dictionary
        """A mapping as it is written: before `<<` merges others into it, whose keys it may override."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if (key.tag, key.value) in lines:
                first = lines[key.tag, key.value]
                raise DuplicateKey(f"line {line}: {key.value!r} is given twice, first in line {first}")
            lines[key.tag, key.value] = line
        return node


def load_documents(text: str) -> Iterator[Any]:
    """Every document of a YAML text.  Raises `yaml.YAMLError`."""
    return yaml.load_all(text, Loader=_Loader)

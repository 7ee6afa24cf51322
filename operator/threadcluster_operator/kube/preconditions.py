"""The state of an object that a write was decided on."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self


class Preconditions(NamedTuple):
    """The state of an object that a write was decided on; the API server refuses a write to another state."""

    uid: str
    version: str

    @classmethod
    def of(cls, seen: Mapping[str, Any]) -> Self:
        """Of an object as it was seen."""
        return cls(str(seen["metadata"]["uid"]), str(seen["metadata"]["resourceVersion"]))

    @property
    def metadata(self) -> dict[str, str]:
        """The fields of a patch that make the API server check them."""
        return {"uid": self.uid, "resourceVersion": self.version}

"""Amounts of processor and memory, as numbers: 1000m is 1, and 1024Mi is 1Gi."""

import re
from decimal import Decimal
from typing import Final

_UNITS: Final = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", start=1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", start=1)},
}
_QUANTITY: Final = re.compile(r"([+-]?[0-9]*\.?[0-9]*)(?:[eE]([+-]?[0-9]{1,3})|([numkMGTPE]i?|Ki)?)")


def amount(quantity: object) -> Decimal | None:
    """The number that a quantity is, or None for what is none."""
    found = _QUANTITY.fullmatch(str(quantity))
    if found is None or not any(char.isdigit() for char in found[1]) or (found[3] or "") not in _UNITS:
        return None
    return Decimal(found[1]) * (Decimal(10) ** int(found[2]) if found[2] else _UNITS[found[3] or ""])

"""What becomes of a document: one byte each, and the name that it is counted under."""

from ..config import PrepareConfig
from ..text.filters import parse_filters

KEPT = 0
"""For training, once decided."""
EVAL = 1
EMPTY = 2
BINARY = 3
BAD = 4
EXACT = 5
NEAR = 6
RULES = 16
"""The first of the rules that drop documents, in the order of `parse_filters`."""
_NAMES = {
    EMPTY: "empty",
    BINARY: "binary",
    BAD: "bad",
    EXACT: "exact_duplicates",
    NEAR: "near_duplicates",
}


def counts_by_name(counts: list[int], settings: PrepareConfig) -> dict[str, int]:
    """How many documents were read, dropped for each reason, and kept; they add up."""
    rules = parse_filters(settings.filters)
    found = {"read": sum(counts)}
    found |= {name: counts[code] for code, name in _NAMES.items()}
    found |= {name: counts[RULES + place] for place, (name, _) in enumerate(rules)}
    return {**found, "kept": counts[KEPT] + counts[EVAL]}

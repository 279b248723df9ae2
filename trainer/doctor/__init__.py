"""Looks at a node before a run does: facts are gathered, and judged by pure functions.

facts (host, gpus, disk, store, ways, ranks) -> findings (ok, warning, problem) -> table or JSON
"""

from .examine import Report, examine
from .finding import Finding, Level

__all__ = ["Finding", "Level", "Report", "examine"]

"""Bad data: what a good record is, by declaration, and what becomes of those that are not.

records or samples --Column--> good, or BadRecord --Policy--> refused, or skipped: Skips
"""

from .policy import OnBad, Policy
from .records import GoodRecords
from .rules import Column
from .samples import GoodSamples
from .skips import BadRecord, Skips, places

__all__ = [
    "BadRecord", "Column", "GoodRecords", "GoodSamples", "OnBad", "Policy", "Skips", "places",
]  # fmt: skip

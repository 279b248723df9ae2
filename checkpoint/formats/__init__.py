"""Checkpoints of others: torch's DCP and Hugging Face's layout, read and written tensor by tensor.
Nothing in here unpickles: what a foreign file says is data, and data only."""

from .dcp import export_dcp, import_dcp
from .huggingface import export_huggingface, import_huggingface

__all__ = ["export_dcp", "export_huggingface", "import_dcp", "import_huggingface"]

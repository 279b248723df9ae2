"""What the first training step imports lazily, imported before the fork, so that no worker pays."""

import contextlib
import importlib

_LAZY = (
    "numpy.fft",
    "numpy.random",
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.device_mesh",
    "torch.distributed.fsdp",
    "torch.distributed.tensor.parallel",
    "torch.optim.adamw",
    "tokenizers",
)

# What data in a bucket needs, where it is installed.
# Not obstore: who finds it imported cannot tell whether the process it was forked from has used it.
_OF_STORES = ("botocore.session",)


def preload() -> None:
    """Imports only: no thread, no device, no arithmetic."""
    for name in _LAZY:
        importlib.import_module(name)
    for name in _OF_STORES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)

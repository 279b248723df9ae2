"""Stand-ins for packages that mosaicml-streaming imports and that a CPU torch cannot have."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

STUBS = {
    "torchvision": (),
    "torchvision.datasets": ("VisionDataset",),
    "torchvision.transforms": (),
    "torchvision.transforms.functional": ("to_tensor",),
    "transformers": (),
    "transformers.feature_extraction_utils": ("BatchFeature",),
    "transformers.tokenization_utils_base": ("BatchEncoding",),
    "transformers.models": (),
    "transformers.models.auto": (),
    "transformers.models.auto.tokenization_auto": ("AutoTokenizer",),
}


def stub() -> None:
    """Stands in for packages of which streaming imports a class or two that no writer uses."""
    for name, members in STUBS.items():
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__spec__ = ModuleSpec(name, None)
        for member in members:
            setattr(sys.modules[name], member, type(member, (), {}))

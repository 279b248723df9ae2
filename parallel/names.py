"""Names of parameters and modules as the model's author wrote them, whatever wraps the modules."""

import re

_WRAPPERS = re.compile(r"_orig_mod\.|_checkpoint_wrapped_module\.|_pipeline_stage_\d+\.")


def canonical_name(name: str) -> str:
    """Strips what wrappers and stages add to a parameter's or module's name."""
    return _WRAPPERS.sub("", name)

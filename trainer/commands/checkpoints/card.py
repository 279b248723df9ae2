"""What goes beside exported weights for people and for transformers: a model card, and what the
tokenizer's file does not say of itself."""

import json
from typing import Any

from ....checkpoint import Manifest
from ...config import RunConfig


def card(manifest: Manifest, config: RunConfig, *, address: str) -> str:
    """A README.md: how to load the model, and where it comes from."""
    progress, lineage = manifest.progress, manifest.lineage
    facts = {
        "model": config.model.name,
        "data": config.data.path or config.data.name,
        "optimizer steps": manifest.step,
        "tokens": progress.get("tokens"),
        "samples": progress.get("samples"),
        **{key.replace("_", " "): value for key, value in (progress.get("metrics") or {}).items()},
        "checkpoint": address,
        "parent checkpoint": lineage.get("parent"),
        "git commit": lineage.get("git_commit"),
        "configuration": lineage.get("config_digest"),
        "data digest": lineage.get("data_digest"),
        "seed": lineage.get("seed"),
        **{f"version of {key}": value for key, value in (lineage.get("versions") or {}).items()},
    }
    rows = [f"| {key} | {_cell(value)} |" for key, value in facts.items() if value is not None]
    return "\n".join(
        [
            *("---", "library_name: transformers", "pipeline_tag: text-generation", "---", ""),
            *(f"# {config.model.name}", "", "Trained with keepstep.", ""),
            *("```python", "from transformers import AutoModelForCausalLM, AutoTokenizer", ""),
            "model = AutoModelForCausalLM.from_pretrained(FOLDER)",
            *("tokenizer = AutoTokenizer.from_pretrained(FOLDER)", "```", ""),
            *("## Lineage", "", "| what | value |", "| --- | --- |", *rows, ""),
        ]
    )


def tokenizer_config(content: bytes, *, end_token: int, length: int) -> dict[str, Any]:
    """What tokenizer_config.json says of a tokenizer.json.

    Args:
        end_token: id of its end of text.
        length: tokens that the model was trained on at once.
    """
    added = json.loads(content).get("added_tokens", [])
    end = next((one["content"] for one in added if one["id"] == end_token), None)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end,
        "eos_token": end,
        "model_max_length": length,
        "clean_up_tokenization_spaces": False,
    }


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")

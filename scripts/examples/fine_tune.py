"""Fine-tunes a Hugging Face decoder on questions and answers; the loss is of the answers alone.

python scripts/examples/fine_tune.py make BASE                       a tiny Llama to begin with
torchrun --standalone --nproc-per-node=2 scripts/examples/fine_tune.py model.path=BASE run.name=sums
keepstep checkpoint export huggingface runs/sums OUT --tokenizer BASE/tokenizer.json

BASE may be the folder of any decoder that keepstep trains, with its weights and tokenizer.json.
"""

import sys
from pathlib import Path

import torch

from keepstep.data import Tokenizer
from keepstep.trainer import ConfigError, Recipe, RunConfig, Trainer, supervise
from keepstep.trainer.config import HuggingFaceConfig
from keepstep.trainer.models.choose import choose
from keepstep.trainer.objective import IGNORED, next_token_loss, next_token_targets

DEFAULTS = (
    *("model=huggingface", "data.sequence_length=16", "train.steps=200", "train.eval_samples=0"),
    *("train.batch_samples=32", "train.microbatch_samples=16", "optim.lr=3e-3"),
)
QUESTIONS = [(f"{a} plus {b} makes", f" {a + b}.") for a in range(20) for b in range(20)]
HELD_OUT = 40


def make_base(folder: Path) -> None:
    """Writes a decoder as transformers has it, made of settings, and a tokenizer trained on the
    spot: what a download would be, but small."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = Tokenizer.train((f"{asked}{said}" for asked, said in QUESTIONS), 400)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=tokenizer.vocabulary_size, **sizes, **heads)
    LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer.to_json())


def samples(tokenizer: Tokenizer, length: int) -> dict[str, torch.Tensor]:
    """Questions with their answers, mixed: `tokens` (N, length + 1), and `targets` (N, length),
    which count for nothing but in an answer."""
    tokens = torch.full((len(QUESTIONS), length + 1), tokenizer.end_token)
    targets = torch.full((len(QUESTIONS), length), IGNORED)
    for row, (asked, said) in enumerate(QUESTIONS):
        question, answer = tokenizer.encode(asked), tokenizer.encode(said)
        begin, end = len(question), len(question) + len(answer)
        if end > length:
            raise ConfigError(
                f"data.sequence_length: found {length}, needed {end} or more for {asked!r}; set it"
            )
        tokens[row, :end] = torch.tensor([*question, *answer])
        targets[row, begin - 1 : end - 1] = torch.tensor(answer)
    mixed = torch.randperm(len(QUESTIONS), generator=torch.Generator().manual_seed(0))
    return {"tokens": tokens[mixed], "targets": targets[mixed]}


def sums(config: RunConfig) -> Recipe:
    """The recipe: the decoder of model.path, on questions of which a tenth are held out."""
    model = config.model
    if not isinstance(model, HuggingFaceConfig) or model.path is None:
        raise ConfigError("model.path: found none, needed a decoder's folder; set model.path=BASE")
    tokenizer = Tokenizer.load(Path(model.path) / "tokenizer.json")
    build, plan = choose(config, vocabulary_size=tokenizer.vocabulary_size)
    every = samples(tokenizer, config.data.sequence_length)
    return Recipe(
        model=build,
        plan=plan,
        loss=next_token_loss,
        targets=next_token_targets,
        samples={name: tensor[:-HELD_OUT] for name, tensor in every.items()},
        eval_samples={name: tensor[-HELD_OUT:] for name, tensor in every.items()},
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        make_base(Path(sys.argv[2]))
    else:
        supervise(Trainer.fit, sums, [*DEFAULTS, *sys.argv[1:]])

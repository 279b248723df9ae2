"""CARD.md: what a folder of token shards was made of, for whoever meets it later."""

from ..manifest import Manifest

CARD = "CARD.md"
_MOST_PROBLEMS = 20


def card(manifest: Manifest) -> str:
    """The text of the card, in Markdown; the same for the same manifest."""
    source, counts = manifest.source, manifest.counts["documents"]
    splits = manifest.splits
    dropped = [(name, number) for name, number in counts.items() if name not in ("read", "kept")]
    lines = [
        f"# {manifest.name}",
        "",
        f"Token shards for training, written by {manifest.created_by}.",
        "",
        "## Made of",
        "",
        f"{source['files']} files, {source['bytes']} bytes, from `{source['path']}`; digest of "
        f"their names, sizes and stamps `{source['digest']}`.",
        "",
        "## Documents",
        "",
        *_table(
            ("documents", "count"),
            [
                ("read", counts["read"]),
                *((f"dropped: {name.replace('_', ' ')}", x) for name, x in dropped if x),
                ("kept", counts["kept"]),
            ],
        ),
        "",
        "Each document is counted once, under the first rule that dropped it. Of duplicates the "
        "first one was kept.",
        *_cut(manifest),
        "",
        "## Tokens",
        "",
        *_table(
            ("split", "documents", "tokens", "shards"),
            [(name, x.documents, x.tokens, len(x.shards)) for name, x in splits.items()],
        ),
        "",
        f"- {manifest.counts['characters']} characters, "
        f"{manifest.counts['characters'] / max(1, sum(x.tokens for x in splits.values())):.2f} a "
        "token",
        f"- {manifest.dtype}, {manifest.vocabulary_size} entries in `{manifest.tokenizer.name}`; "
        f"token {manifest.end_token} ends each document",
        f"- entropy of single tokens {manifest.unigram_entropy_nats:.4f} nats: the loss of a model "
        "that knows only how frequent each is",
        f"- digest of the tokens `{manifest.digest(*splits)}`",
        "",
        "## Settings",
        "",
        *_table(
            ("setting", "value"),
            [(name, f"`{value}`") for name, value in sorted(manifest.settings.items())],
        ),
        *_problems(manifest.counts["problems"]),
        "",
        "## Use",
        "",
        "```",
        "keepstep train data.name=NAME data.path=THIS_FOLDER",
        "keepstep data verify THIS_FOLDER",
        "```",
        "",
        "`keepstep-train.lock` and `keepstep-eval.lock` tell all that a reader must know of a "
        "copy, wherever it lies; `*-documents.npy` hold the first token of each document.",
        "",
    ]
    return "\n".join(lines)


def _cut(manifest: Manifest) -> list[str]:
    total = sum(split.documents for split in manifest.splits.values())
    if manifest.counts["documents"]["kept"] == total:
        return []
    return ["", f"The one document was cut into {total} pieces, so that a split exists."]


def _table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> list[str]:
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in (head, *rows)]
    text = [f"| {' | '.join(row)} |" for row in cells]
    return [text[0], f"|{' --- |' * len(head)}", *text[1:]]


def _problems(problems: list[str]) -> list[str]:
    if not problems:
        return []
    named = [f"- {problem}" for problem in problems[:_MOST_PROBLEMS]]
    more = len(problems) - len(named)
    return ["", "## Left out as bad", "", *named, *([f"- and {more} more"] if more else [])]

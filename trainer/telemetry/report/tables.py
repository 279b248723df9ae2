"""Tables of a page, every word of them escaped; passwords in URLs are left out."""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_USER = re.compile(r"(?<=://)[^/@\s]+@")


def text(value: object) -> str:
    """A value as a page may hold it."""
    if isinstance(value, float):
        value = f"{value:,.6g}"
    elif value is None:
        value = "-"
    return html.escape(_USER.sub("", str(value)))


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, kind: str = "") -> str:
    """A table; numbers are to the right."""
    top = "".join(f"<th>{text(head)}</th>" for head in heads)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    head = f"<thead><tr>{top}</tr></thead>" if heads else ""
    return f'<div class="scroll"><table class="{kind}">{head}<tbody>{body}</tbody></table></div>'


def facts(found: Mapping[str, object]) -> str:
    """Names and values, one a row."""
    return table((), found.items(), kind="facts")


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted names; lists stay whole."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _cell(value: object) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f'<td class="{"number" if is_number else "words"}">{text(value)}</td>'

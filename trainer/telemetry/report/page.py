"""The page around figures and tables: one file, nothing fetched."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .figures import library
from .tables import text

_STYLE = """
:root { color-scheme: light; --ink: #0f172a; --quiet: #64748b; --line: #e2e8f0; }
* { box-sizing: border-box; }
body { margin: 0; background: #f8fafc; color: var(--ink);
  font: 14px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 1280px; margin: 0 auto; padding: 24px; }
h1 { font-size: 24px; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 16px; margin: 0 0 4px; }
p { margin: 4px 0 8px; color: var(--quiet); }
.state { display: inline-block; padding: 2px 10px; border-radius: 999px; font-size: 13px;
  font-weight: 600; color: #fff; background: #64748b; vertical-align: middle; margin-left: 8px; }
.finished { background: #059669; } .running { background: #2563eb; }
.preempted, .silent { background: #d97706; } .failed, .lost { background: #dc2626; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(136px, 1fr));
  gap: 12px; margin: 16px 0; }
.card { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 10px 14px; }
.card b { display: block; font-size: 20px; font-variant-numeric: tabular-nums; }
.card span { color: var(--quiet); font-size: 12px; }
.grid { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 12px; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px;
  min-width: 0; }
section.wide { grid-column: 1 / -1; }
@media (max-width: 860px) { .grid { grid-template-columns: minmax(0, 1fr); } }
.scroll { overflow-x: auto; max-height: 480px; overflow-y: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th { text-align: left; color: var(--quiet); font-weight: 600; position: sticky; top: 0;
  background: #fff; }
td, th { padding: 3px 12px 3px 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
table:not(.facts) td:first-child { white-space: nowrap; overflow-wrap: normal; }
td.number { font-variant-numeric: tabular-nums; }
table.facts td:first-child { color: var(--quiet); width: 34%; }
details summary { cursor: pointer; font-weight: 600; }
footer { color: var(--quiet); margin: 16px 0; font-size: 12px; }
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A box of the page; `body` is markup."""

    title: str
    body: str
    note: str = ""
    is_wide: bool = False
    is_folded: bool = False

    def markup(self) -> str:
        note = f"<p>{text(self.note)}</p>" if self.note else ""
        kind = ' class="wide"' if self.is_wide else ""
        if self.is_folded:
            inner = f"<details><summary>{text(self.title)}</summary>{note}{self.body}</details>"
        else:
            inner = f"<h2>{text(self.title)}</h2>{note}{self.body}"
        return f"<section{kind}>{inner}</section>"


def page(
    title: str,
    *,
    heading: str,
    cards: Iterable[tuple[str, str]],
    sections: Sequence[Section],
    footer: str,
) -> str:
    """The whole file. `heading` is markup; the rest is words."""
    shown = "".join(
        f'<div class="card"><span>{text(name)}</span><b>{text(value)}</b></div>'
        for name, value in cards
    )
    boxes = "".join(section.markup() for section in sections)
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{text(title)}</title><style>{_STYLE}</style>"
        f"<script>{library()}</script></head><body><main>{heading}"
        f'<div class="cards">{shown}</div><div class="grid">{boxes}</div>'
        f"<footer>{text(footer)}</footer></main></body></html>\n"
    )

"""The findings as a person reads them: a table, and below it what to do, the worst first."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .examine import Report
from .finding import Finding, Level

_STYLES = {Level.ok: "green", Level.warning: "yellow", Level.problem: "bold red"}


def draw(report: Report, console: Console) -> None:
    """Prints the report."""
    nodes = len({one.node for one in report.findings})
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for head in (*(["node"] if nodes > 1 else []), "", "what", "found", "needed"):
        table.add_column(head, overflow="fold", no_wrap=head == "")
    for one in report.findings:
        style = _STYLES[one.level]
        table.add_row(
            *([str(one.node)] if nodes > 1 else []),
            f"[{style}]{one.level}[/]",
            escape(f"{one.area}: {one.subject}"),
            escape(one.found),
            escape(one.needed),
        )
    console.print(table)
    for level in (Level.problem, Level.warning):
        for one in report.findings:
            if one.level is level:
                console.print(_advice(one), soft_wrap=True)
    console.print(_summary(report), soft_wrap=True)


def _advice(one: Finding) -> str:
    style = _STYLES[one.level]
    return f"[{style}]{one.level}[/] {escape(f'{one.area}, {one.subject}: {one.remedy}')}"


def _summary(report: Report) -> str:
    counts = {level: sum(one.level is level for one in report.findings) for level in Level}
    said = ", ".join(f"{count} {level}" for level, count in counts.items())
    ranks = f"{report.ranks} rank{'s' if report.ranks > 1 else ''}"
    return f"{said}; {ranks}, looked at for {report.seconds:.1f} s"

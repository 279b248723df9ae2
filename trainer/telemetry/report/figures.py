"""How every figure looks: one frame, one set of colours, units on the axes."""

from collections.abc import Iterable
from typing import Any

from ...errors import ConfigError

COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")
QUIET, INK = "#94a3b8", "#1e293b"
ACCOUNTS = {
    "step": "#10b981",
    "compile": "#5eead4",
    "data": "#f59e0b",
    "snapshot": "#7dd3fc",
    "save": "#3b82f6",
    "eval": "#a78bfa",
    "init": "#cbd5e1",
    "restore": "#f87171",
    "redo": "#b91c1c",
    "wait": "#64748b",
}
_CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d"],
}


def graph_objects() -> Any:
    """plotly's own names.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import plotly.graph_objects
    except ImportError as error:
        raise ConfigError(
            "plotly: found it not installed, needed it to draw reports; pip install "
            '"keepstep[report]"'
        ) from error
    return plotly.graph_objects


def library() -> str:
    """plotly.js itself, to be written into a page once."""
    graph_objects()
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def figure(*, x: str, y: str, height: int = 300) -> Any:
    """An empty figure with named axes."""
    made = graph_objects().Figure()
    axis = {"gridcolor": "#e2e8f0", "zeroline": False, "linecolor": "#cbd5e1", "automargin": True}
    made.update_layout(
        template="none",
        height=height,
        margin={"l": 64, "r": 16, "t": 36, "b": 48},
        font={"family": "system-ui, sans-serif", "size": 12, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hovermode="x unified",
        showlegend=True,
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#cbd5e1", "activecolor": INK},
        legend={
            "traceorder": "normal",
            "orientation": "h",
            "y": 1.0,
            "yanchor": "bottom",
            "x": 0,
            "font": {"size": 11},
        },
        xaxis={**axis, "title": {"text": x, "standoff": 8}},
        yaxis={**axis, "title": {"text": y, "standoff": 8}},
    )
    return made


def line(made: Any, x: Iterable[float], y: Iterable[float], name: str, **more: Any) -> None:
    """Adds a curve; `more` goes to plotly as it is."""
    colour = more.pop("colour", COLOURS[0])
    style = {"color": colour, "width": more.pop("width", 1.6), "dash": more.pop("dash", "solid")}
    more = {"mode": "lines", "line": style, **more}
    made.add_trace(graph_objects().Scatter(x=list(x), y=list(y), name=name, **more))


def markup(made: Any, name: str) -> str:
    """A figure as the part of a page, which holds plotly.js already."""
    return str(
        made.to_html(
            full_html=False,
            include_plotlyjs=False,
            div_id=name,
            config=_CONFIG,
            default_width="100%",
        )
    )

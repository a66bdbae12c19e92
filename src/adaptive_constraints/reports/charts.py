"""Charts in Vega-Lite, made with Altair (extra ``report``), which pages draw while they are read and pictures hold.

A chart is a plain tree without data. `filled` puts rows into it and says in the legend what they hold, and so does the
page's script with the rows that its filters leave; both draw the same trees. Rows are of these forms, each a mapping:

- ``stack, x, y, low, high``: a line and its band, each a list as long as ``x``, with None where there is a gap;
- ``stack, seed, x, y``: the thin line of one seed;
- ``own``: the height of a level line, which is the data's own score;
- ``name, value, low, high``: an estimate and its interval; low and high are None where there is none.
"""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from adaptive_constraints.errors import DependencyError
from adaptive_constraints.runs.plots import COLOURS
from adaptive_constraints.support.files import replacing

if TYPE_CHECKING:
    import altair as alt

Tree: TypeAlias = dict[str, Any]
Row: TypeAlias = Mapping[str, Any]

MISSING = (
    "charts need Altair and vl-convert-python, which are not installed: pip install 'adaptive-constraints[report]'"
)
WIDTH, SMALL = 640, 300
"""Pixels across, of a picture and of a panel of several in one."""
_SHORT = "abs(datum.value) < 1000 ? format(datum.value, '~g') : format(datum.value, '~s')"
"""How an axis writes a number: 20k, 1.5M, 0.02."""
_DASHES = ([1, 0], [7, 3], [2, 3], [8, 3, 2, 3])
_DARK = ("#3f9fe0", "#f0793a", "#22c096", "#e592c2", "#f2f2f2", "#9ad7f7", "#f3ba4a")
LETTER = 6.6
"""Pixels of a letter in a label, on average."""
BESIDE, ONE_COLUMN = 90, 480
"""Pixels that an axis and the menu take beside a legend, and the width below which it has one name in a line."""
NAME, LINE = 24, 14
"""Pixels of an estimate's dot with the room around it, and of each line of its name above it."""


def installed() -> bool:
    """Tell whether charts can be made."""
    return find_spec("altair") is not None and find_spec("vl_convert") is not None


def require() -> None:
    """Raise `DependencyError` where charts cannot be made."""
    if not installed():
        raise DependencyError(MISSING)


@cache
def library() -> str:
    """The JavaScript that draws charts, nearly a megabyte: Vega, Vega-Lite and vega-embed. It fetches nothing."""
    import vl_convert

    # Its annotations forget that None, the default, gives the whole bundle.
    bundle: str = vl_convert.javascript_bundle(None, vl_version=_version())  # type: ignore[arg-type]
    return bundle.replace("</script", "<\\/script")


def config(*, dark: bool = False) -> Tree:
    """Colours and type of all charts."""
    page, ink, quiet, line = (
        ("#14171b", "#e6e9ed", "#a3acb7", "#3a414a") if dark else ("#fff", "#1b1f24", "#57606a", "#d5d9df")
    )
    colours = list(_DARK if dark else COLOURS)
    axis = {"labelColor": quiet, "titleColor": quiet, "gridColor": line, "domainColor": line, "tickColor": line}
    return {
        "background": page,
        "font": "system-ui, DejaVu Sans, sans-serif",
        "view": {"stroke": None},
        "axis": axis | {"titleFontWeight": "normal", "titleFontSize": 12, "labelFontSize": 11, "titleLimit": 0},
        "legend": {"labelColor": ink, "labelFontSize": 12, "symbolStrokeWidth": 2.5, "symbolSize": 500},
        "title": {"color": ink, "anchor": "start", "fontSize": 13},
        "mark": {"color": colours[0]},
        "text": {"color": ink, "fontSize": 12},
        "style": {
            "interval": {"stroke": colours[0]},
            "level": {"stroke": quiet, "strokeWidth": 1.5},
            "level-name": {"fill": quiet, "fontSize": 11},
        },
        "range": {"category": colours},
    }


# -- charts -------------------------------------------------------------------------------------------------------


@cache
def lines(
    names: tuple[str, ...],
    xlabel: str,
    ylabel: str,
    *,
    logarithmic: bool = False,
    share: bool = False,
    small: bool = False,
    moving: bool = True,
) -> Tree:
    """Lines over x in their bands, each stack in its own colour and dashes.

    names: all stacks, in the order of their colours, so that a stack looks the same in every chart.
    share: from 0 to 1.
    moving: it answers a reader: values on hovering, zoom, and a legend that picks.
    """
    import altair as alt

    picked = alt.selection_point(name="picked", fields=["stack"], bind="legend", toggle="true")
    scale = alt.Scale(type="log") if logarithmic else alt.Scale(domain=[0, 1]) if share else alt.Scale(zero=False)
    x = alt.X(
        "x:Q",
        title=xlabel,
        scale=alt.Scale(zero=False, nice=False),
        axis=alt.Axis(grid=False, labelExpr=_SHORT, tickCount=6),
    )
    axis = alt.Axis(labelExpr=_SHORT, tickCount=5)
    title = textwrap.wrap(ylabel, 26) if small else ylabel

    def y(name: str) -> alt.Y:
        return alt.Y(f"{name}:Q", title=title, scale=scale, axis=axis)

    look = {"color": _colour(names), "strokeDash": _dashes(names)}
    chosen = alt.Chart().transform_filter("isValid(datum.stack)")
    if moving:
        chosen = chosen.transform_filter(picked)
    whole = chosen.transform_filter("!isValid(datum.seed)").transform_flatten(["x", "y", "low", "high"])
    seeds = chosen.transform_filter("isValid(datum.seed)").transform_flatten(["x", "y"])
    own = alt.Chart().transform_filter("isValid(datum.own)")
    layers = [
        whole.mark_area(opacity=0.12).encode(x=x, y=y("low"), y2="high:Q", color=_colour(names)),
        seeds.mark_line(strokeWidth=0.7, opacity=0.5).encode(x=x, y=y("y"), detail="seed:N", color=_colour(names)),
        own.mark_rule(style="level", strokeDash=[4, 3]).encode(y=y("own")),
        own.mark_text(style="level-name", align="left", baseline="bottom", dx=3, dy=-2, text="the data's own").encode(
            x=alt.value(0), y=y("own")
        ),
        whole.mark_line(strokeWidth=2).encode(x=x, y=y("y"), **look),
        _values(whole, x, y("y"), names, xlabel, moving=moving),
    ]
    chart = alt.layer(*layers, data=alt.NamedData("rows")).properties(height=180 if small else 260)
    if moving:
        chart = chart.add_params(picked, _zoom("x", "y"))
    return _plain(chart)


def _values(whole: alt.Chart, x: alt.X, y: alt.Y, names: tuple[str, ...], xlabel: str, *, moving: bool) -> alt.Chart:
    """Points that say their values; a line of one point is seen by it."""
    import altair as alt

    alone = "datum.points === 1 ? 1 : 0"
    points = whole.transform_joinaggregate(points="count()", groupby=["stack"]).mark_point(filled=True, size=50)
    said = [
        alt.Tooltip("stack:N", title="stack"),
        alt.Tooltip("x:Q", title=xlabel, format=","),
        *(
            alt.Tooltip(f"{name}:Q", title=title, format=".4~g")
            for name, title in (("y", "value"), ("low", "from"), ("high", "to"))
        ),
    ]
    if not moving:
        return points.transform_filter("datum.points === 1").encode(x=x, y=y, color=_colour(names))
    near = alt.selection_point(
        name="near", on="pointerover", clear="pointerout", nearest=True, empty=False, fields=["stack", "x"]
    )
    seen = alt.when(near).then(alt.value(1)).otherwise(alt.value(alt.expr(alone)))
    return points.encode(x=x, y=y, color=_colour(names), opacity=seen, tooltip=said).add_params(near)


def _zoom(*axes: Literal["x", "y"]) -> alt.Parameter:
    """Dragging by mouse moves, Ctrl and wheel zoom, a double click resets; fingers and the wheel scroll the page."""
    import altair as alt

    drag = "[pointerdown[event.pointerType === 'mouse'], window:pointerup] > window:pointermove!"
    return alt.selection_interval(
        name="zoom", bind="scales", encodings=list(axes), zoom="wheel![event.ctrlKey]", translate=drag
    )


@cache
def intervals(xlabel: str, *, zero: bool = False, moving: bool = True) -> Tree:
    """Estimates under each other, each a dot in its interval, with its name above.

    zero: mark 0, for differences.
    """
    import altair as alt

    title = xlabel.split(", ")  # in lines, which fit a phone
    x = alt.X(
        "value:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(grid=True, labelExpr=_SHORT, tickCount=6)
    )
    at = alt.Y("name:N", sort=None, axis=None, bandPosition=1)
    named = alt.Y("name:N", sort=None, axis=None, bandPosition=0)
    base = alt.Chart()
    said = [
        alt.Tooltip("name:N", title="of"),
        *(
            alt.Tooltip(f"{name}:Q", title=title, format=".4~g")
            for name, title in (("value", "value"), ("low", "from"), ("high", "to"))
        ),
    ]
    dots = base.mark_point(filled=True, size=80, opacity=1, yOffset=-11).encode(x=x, y=at, tooltip=said)
    layers = [
        base.mark_rule(style="interval", strokeWidth=2.5, yOffset=-11).encode(
            x=alt.X("low:Q", title=title), x2="high:Q", y=at, tooltip=said
        ),
        dots.add_params(_zoom("x")) if moving else dots,
        base.mark_text(align="left", baseline="top", lineBreak="\n", dy=4).encode(
            x=alt.value(0), y=named, text="lines:N"
        ),
    ]
    if zero:
        layers.insert(0, base.mark_rule(style="level").encode(x=alt.XDatum(0, title=title)))
    return _plain(alt.layer(*layers, data=alt.NamedData("rows")))


def _colour(names: tuple[str, ...]) -> alt.Color:
    import altair as alt

    return alt.Color("stack:N", scale=alt.Scale(domain=list(names)), legend=_legend())


def _dashes(names: tuple[str, ...]) -> alt.StrokeDash:
    """Dashes set apart what repeats a colour."""
    import altair as alt

    dashes = [_DASHES[i // len(COLOURS) % len(_DASHES)] for i in range(len(names))]
    return alt.StrokeDash("stack:N", scale=alt.Scale(domain=list(names), range=dashes), legend=_legend())


def _legend() -> alt.Legend:
    import altair as alt

    return alt.Legend(title=None, orient="bottom", labelLimit=0, symbolType="stroke", symbolOpacity=1)


def _plain(chart: alt.TopLevelMixin) -> Tree:
    """The tree without what differs between equal charts, and without addresses."""
    tree: Tree = chart.to_dict()
    for key in ("$schema", "config"):
        tree.pop(key, None)
    names = {}
    for position, layer in enumerate(tree["layer"]):
        names[layer.get("name")] = layer["name"] = f"layer{position}"
    for parameter in tree.get("params", []):
        parameter["views"] = [names[view] for view in parameter["views"]]
    if "params" not in tree:  # several charts in one picture must not share names
        for layer in tree["layer"]:
            del layer["name"]
    return tree


# -- with rows ----------------------------------------------------------------------------------------------------


def key(row: Row) -> str | int | None:
    """What a row is of: a stack, or the number of an effect; None for what is of none."""
    of: str | int | None = row.get("row", row.get("stack", row.get("name")))
    return of


def all_equal(rows: Sequence[Row]) -> float | None:
    """The one number that all lines or estimates are, which no chart is needed to say; None where they differ."""
    shown = [value for row in rows for name in ("y", "value", "low", "high", "own") for value in _listed(row.get(name))]
    known = {value for value in shown if value is not None}
    return known.pop() if len(known) == 1 else None


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]


def filled(tree: Tree, rows: Sequence[Row], width: int) -> Tree:
    """The chart of these rows at a width in pixels; its legend names what they hold, in as many columns as fit."""
    full = copy.deepcopy(tree) | {"width": width, "data": {"values": [_wrapped(row, width) for row in rows]}}
    names = list(dict.fromkeys(row["stack"] for row in rows if "stack" in row))
    if names:
        longest = max(map(len, names)) * LETTER + 50
        columns = 1 if width < ONE_COLUMN else max(1, min(len(names), int((width - BESIDE) // longest)))
        own = {"values": names, "columns": columns}
        for layer in full["layer"]:
            for channel in layer["encoding"].values():
                if isinstance(channel, dict) and channel.get("legend"):
                    channel["legend"] |= own
    else:
        most = max(row["lines"].count("\n") for row in full["data"]["values"])
        full["height"] = len(rows) * (NAME + LINE * (1 + most))
    return full


def _wrapped(row: Row, width: int) -> Row:
    return {**row, "lines": "\n".join(textwrap.wrap(row["name"], int(width / LETTER)))} if "name" in row else row


def beside(trees: Sequence[Tree]) -> Tree:
    """Several filled charts in one, three in a line, each with its own legend."""
    if len(trees) == 1:
        return dict(trees[0])
    apart = {"color": "independent", "strokeDash": "independent"}
    return {"concat": list(trees), "columns": 3, "resolve": {"scale": apart, "legend": apart}}


def picture(chart: Tree, path: Path) -> Path:
    """Write a filled chart as a PNG."""
    import vl_convert

    png = vl_convert.vegalite_to_png(chart, vl_version=_version(), scale=2, config=config())
    with replacing(path, "wb") as file:
        file.write(png)
    return path


def _version() -> str:
    """The version of Vega-Lite that Altair writes, as vl-convert names it."""
    import altair as alt

    return ".".join(alt.SCHEMA_VERSION.split(".")[:2])


__all__ = [
    "BESIDE",
    "LETTER",
    "LINE",
    "MISSING",
    "NAME",
    "ONE_COLUMN",
    "SMALL",
    "WIDTH",
    "Row",
    "Tree",
    "all_equal",
    "beside",
    "config",
    "filled",
    "installed",
    "intervals",
    "key",
    "library",
    "lines",
    "picture",
    "require",
]

"""HTML from Python values: everything that is not markup already is escaped."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from typing import TypeAlias

_VOID = ("input", "wbr")


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


Child: TypeAlias = str | int | None


def tag(name: str, /, *children: Child, **attributes: str | int | float | bool | None) -> Html:
    """``tag("td", "a < b", class_="score", data_value=1)``: an element; None leaves an attribute or a child out."""
    words = "".join(_attribute(key, value) for key, value in attributes.items())
    return Html(f"<{name}{words}>" if name in _VOID else f"<{name}{words}>{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Html:
    """The children one after another."""
    return Html("".join(_escaped(child) for child in children if child is not None))


def table(caption: Child, heads: Sequence[Child], rows: Iterable[Sequence[Child]]) -> Html:
    """A small table, as notebooks show it: names at the left, numbers at the right."""
    styles = [f"text-align: {side}; padding: 0 0.5em" for side in ("left", *["right"] * (len(heads) - 1))]
    head = tag("tr", *(tag("th", cell, style=style) for cell, style in zip(heads, styles, strict=True)))
    body = [tag("tr", *(tag("td", cell, style=style) for cell, style in zip(row, styles, strict=True))) for row in rows]
    over = tag("caption", caption, style="text-align: left; caption-side: top; padding: 0 0.5em")
    whole = tag("table", over, tag("thead", head), tag("tbody", *body))
    return tag("div", whole, style="overflow-x: auto")  # on a narrow screen


def embedded(tree: object) -> Html:
    """JSON that may stand inside a script element: nothing in it can end the element."""
    text = json.dumps(tree, allow_nan=False, separators=(",", ":"))
    return Html(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _escaped(child: str | int) -> str:
    return child if isinstance(child, Html) else html.escape(str(child))


def _attribute(key: str, value: str | int | float | bool | None) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'


__all__ = ["Html", "embedded", "join", "table", "tag"]

"""Small tables for notebooks; names in them are escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_TABLE = (
    '<div style="overflow-x: auto"><table>'
    '<caption style="text-align: left; caption-side: top; padding: 0 0.5em">{{ caption }}</caption>'
    '<thead><tr>{% for head in heads %}<th style="{{ side(loop.first) }}">{{ head }}</th>{% endfor %}</tr></thead>'
    "<tbody>{% for row in rows %}<tr>"
    '{% for cell in row %}<td style="{{ side(loop.first) }}">{{ cell }}</td>{% endfor %}'
    "</tr>{% endfor %}</tbody></table></div>"
)


def table(caption: str, heads: Sequence[str] = (), rows: Iterable[Sequence[str]] = ()) -> str:
    """A small table as HTML, as notebooks show it: names at the left, numbers at the right."""
    from jinja2 import Environment  # which torch brings

    side = lambda first: f"text-align: {'left' if first else 'right'}; padding: 0 0.5em"  # noqa: E731
    template = Environment(autoescape=True).from_string(_TABLE)
    return template.render(caption=caption, heads=heads, rows=list(rows), side=side)


__all__ = ["table"]

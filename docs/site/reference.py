"""Pages of the API: one for each learner and adapter, one for each room of other public names.

What is public is what the packages below export in `__all__`; it is read from the source, and nothing is imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "adaptive_constraints"
PACKAGES = ("", "adapters", "baselines", "networks", "data", "evaluation", "testing")
"""Packages whose `__all__` is public, the whole one first."""
ALSO = ("runs.history.History",)
"""What public functions return, although no package exports it."""
OWN_PAGES = {"baselines": "Learners", "adapters": "Adapters"}
"""Rooms whose classes have a page each."""
ROOMS = {"ablation": "agent", "runs": "agent", "support": "core", "adapters": "core"}
"""Rooms that share the page of another; of the adapters' room, what is no adapter."""
TITLES = {
    "agent": ("Stacks and agents", "Wrap, train, evaluate, save."),
    "core": ("Parts", "What learners and adapters are made of."),
    "data": ("Data", "Data sets, their checks and repairs."),
    "evaluation": ("Evaluation", "Returns and scores."),
    "networks": ("Networks", "Networks as functions of their parameters, and Modules turned into such."),
    "testing": ("Laws", "Checks for learners, adapters and stacks of your own."),
    "errors": ("Errors", "What is raised on purpose."),
}


class Name(NamedTuple):
    """A public name."""

    path: str
    """What it is imported by, such as adaptive_constraints.networks.mlp."""
    page: str
    """The site's path of its page."""
    object: griffe.Object | griffe.Alias


@cache
def package() -> griffe.Object | griffe.Alias:
    """The package, as its source says."""
    loaded = griffe.load(PACKAGE, search_paths=[ROOT / "src"], resolve_aliases=True)  # it imports what it exports by *
    assert not isinstance(loaded, griffe.Alias)
    return loaded


def exports(package: griffe.Object | griffe.Alias) -> Iterator[str]:
    """The path of every public name, from the package that a reader would import it from."""
    for room in PACKAGES:
        module = package[room or "_public"]
        assert isinstance(module, griffe.Module | griffe.Alias)
        yield from (".".join(filter(None, (room, str(name)))) for name in module.exports or ())
    yield from (f"errors.{name}" for name, one in package["errors"].members.items() if one.is_class)
    yield from ALSO


def room_of(one: griffe.Object | griffe.Alias) -> str:
    """The room of the package that a name is defined in."""
    return one.canonical_path.split(".")[1]


def own_page(one: griffe.Object | griffe.Alias) -> str | None:
    """The room of a learner or an adapter, which have pages of their own."""
    return room_of(one) if one.is_class and room_of(one) in OWN_PAGES else None


def page_of(one: griffe.Object | griffe.Alias) -> str:
    """The page of a public name."""
    room = room_of(one)
    return f"reference/{one.name if own_page(one) else ROOMS.get(room, room)}.md"


@cache
def names() -> tuple[Name, ...]:
    """Every public name once, under the shortest path that exports it."""
    found: dict[str, Name] = {}
    for path in exports(package()):
        one = package()[path]
        if path != "__version__" and one.canonical_path not in found:
            found[one.canonical_path] = Name(f"{PACKAGE}.{path}", page_of(one), one)
    return tuple(found.values())


def inherited(one: griffe.Object | griffe.Alias) -> list[str]:
    """The settings that a class has from its base classes."""
    if not one.is_class:
        return []
    members = one.inherited_members.items()
    return [name for name, member in members if member.is_attribute and "instance-attribute" in member.labels]


def directive(name: Name, level: int) -> str:
    """What shows a name on its page, under a heading of this level."""
    options = {"heading_level": level, "inherited_members": inherited(name.object) if level == 1 else False}
    return "\n".join([f"::: {name.path}", "    options:", *(f"      {key}: {value}" for key, value in options.items())])


def text(page: str) -> str:
    """A page of the reference."""
    here = [name for name in names() if name.page == page]
    room = page.removeprefix("reference/").removesuffix(".md")
    if room not in TITLES:
        return directive(here[0], 1) + "\n"
    title, about = TITLES[room]
    return "\n\n".join([f"# {title}", about, *(directive(name, 2) for name in here), ""])


def first_sentence(one: griffe.Object | griffe.Alias) -> str:
    """The first line of a docstring, for a table."""
    line = one.docstring.value.partition("\n")[0] if one.docstring else ""
    return line.replace("|", "\\|")


def overview(sections: dict[str, list[str]]) -> str:
    """The reference's first page: every name with the first line of its docstring."""
    about = "Every public name of `adaptive_constraints` and of its packages, from its docstring."
    lines = ["# Reference", "", about, ""]
    for title, pages in sections.items():
        lines += [f"## {title}", "", "| name | |", "|---|---|"]
        for name in names():
            if name.page in pages:
                short = name.path.removeprefix(f"{PACKAGE}.")
                lines.append(f"| [`{short}`][{name.path}] | {first_sentence(name.object)} |")
        lines.append("")
    return "\n".join(lines)


@event_priority(80)
def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages, and name them in the navigation."""
    sections: dict[str, list[str]] = {}
    for room in ("agent", *OWN_PAGES, *(room for room in TITLES if room != "agent")):
        if room in OWN_PAGES:
            own = {name.page for name in names() if own_page(name.object) == room}
            sections[OWN_PAGES[room]] = sorted(own, key=str.lower)
        else:
            sections[TITLES[room][0]] = [f"reference/{room}.md"]
    pages = [page for listed in sections.values() for page in listed]
    for page in pages:
        files.append(File.generated(config, page, content=text(page)))
    files.append(File.generated(config, "reference/index.md", content=overview(sections)))
    assert config.nav is not None
    nav = next(item["Reference"] for item in config.nav if "Reference" in item)
    for title, listed in sections.items():
        own_pages = title in OWN_PAGES.values()
        nav.append({title: [{Path(page).stem: page} for page in listed] if own_pages else listed[0]})
    return files

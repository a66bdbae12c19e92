"""Pages from outside docs/, links that lead to them, and pages that the navigation does not name.

The site mirrors the repository: README.md is its home page, docs/X is X, and each file or folder that some page links
to becomes a page of its own. So one and the same link works here and in the repository's file view.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.nav import Link, Navigation, Section
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)(?=[)#])")
WHOLE = re.compile(
    r"https://(?:github\.com/adaptive-constraints/adaptive-constraints/(?:blob|tree)"
    r"|raw\.githubusercontent\.com/adaptive-constraints/adaptive-constraints)/main/"
)
"""The beginning of a link into the repository as README.md has it, which is also shown elsewhere."""
FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
ALWAYS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")


def page_of(path: str) -> str:
    """The site's path of a file or folder of the repository."""
    if path.startswith("docs/"):
        return re.sub(r"\.ipynb$", ".md", path.removeprefix("docs/"))
    if path == "README.md":
        return "index.md"
    if (ROOT / path).is_dir():
        return f"{path}/index.md"
    return path.lower() if path.endswith(".md") else f"{path}.md"


def target_of(source: str, link: str) -> str:
    """The path in the repository that a link of the file ``source`` names."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def short(source: str, text: str) -> str:
    """The text of a Markdown file with links into the repository as paths."""
    return WHOLE.sub("", text) if source == "README.md" else text


def links(source: str) -> Iterator[str]:
    """The paths in the repository that a Markdown file links to."""
    text = short(source, (ROOT / source).read_text(encoding="utf-8"))
    for link in LINK.findall("".join(FENCED.split(text)[::2])):
        yield target_of(source, link)


def outside() -> list[str]:
    """Files and folders outside docs/ that are pages of the site."""
    sources = [*ALWAYS, *(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))]
    linked = {path for source in sources for path in links(source)}
    return sorted({*ALWAYS, *(path for path in linked if not path.startswith("docs/") and (ROOT / path).exists())})


def listing(folder: str) -> str:
    """A page that links to every file of a folder."""
    files = sorted(path for path in (ROOT / folder).rglob("*") if path.is_file())
    rows = [(path.relative_to(ROOT / folder).as_posix(), path.stat().st_size) for path in files]
    lines = [f"| [{name}]({name}) | {max(1, size // 1000):,} kB |" for name, size in rows]
    return "\n".join([f"# {folder}", "", "| file | size |", "|---|---:|", *lines, ""])


def code(path: str) -> str:
    """A page that shows a file."""
    language = "python" if path.endswith(".py") else "text"
    return f"# {path}\n\n```{language}\n{(ROOT / path).read_text(encoding='utf-8').rstrip()}\n```\n"


def generated(path: str, config: MkDocsConfig) -> Iterator[File]:
    """The site's files for a file or folder outside docs/."""
    if path.endswith(".md"):
        yield File.generated(config, page_of(path), content=(ROOT / path).read_text(encoding="utf-8"))
        return
    if (ROOT / path).is_file():
        in_nav = path.startswith("examples/")
        inclusion = InclusionLevel.INCLUDED if in_nav else InclusionLevel.NOT_IN_NAV
        yield File.generated(config, page_of(path), content=code(path), inclusion=inclusion)
        return
    yield File.generated(config, page_of(path), content=listing(path), inclusion=InclusionLevel.NOT_IN_NAV)
    for file in (ROOT / path).rglob("*"):
        if file.is_file():
            yield File.generated(config, file.relative_to(ROOT).as_posix(), abs_src_path=str(file))


def named(nav: Iterable[Any]) -> Iterator[str]:
    """The pages that a navigation names."""
    for item in nav:
        if isinstance(item, str):
            yield item
        else:
            for value in item.values():
                yield from [value] if isinstance(value, str) else named(value)


def section(nav: list[Any], title: str) -> list[Any]:
    """The entries of a section of the navigation, to be added to."""
    return next(item[title] for item in nav if title in item)


@event_priority(100)
def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add what stands outside docs/, and name what the navigation does not."""
    assert config.nav is not None
    paths = outside()
    for path in paths:
        for file in generated(path, config):
            files.append(file)
    known = set(named(config.nav))
    guide = section(config.nav, "Guide")
    guide[-1:-1] = sorted(path.name for path in (ROOT / "docs").glob("*.md") if path.name not in known)
    examples = [page_of(path) for path in paths if path.startswith("examples/")]
    section(config.nav, "Your own parts").append({"Examples": [{PurePosixPath(page).stem: page} for page in examples]})
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links into the repository into links within the site."""
    here = page.file.src_uri
    source = {page_of(path): path for path in ALWAYS}.get(here, f"docs/{here}")
    if here.startswith("reference/"):
        return markdown

    def within(match: re.Match[str]) -> str:
        target = target_of(source, match[1])
        if not (ROOT / target).exists():
            return match[0]
        return posixpath.relpath(page_of(target), posixpath.dirname(here) or ".")

    parts = FENCED.split(short(source, markdown))
    parts[::2] = [LINK.sub(within, part) for part in parts[::2]]
    return "".join(parts)


def on_nav(nav: Navigation, *, config: MkDocsConfig, files: Files) -> Navigation:
    """Lead to the glossary, which is a part of a page."""
    about = next(item for item in nav.items if isinstance(item, Section) and item.title == "About")
    about.children.insert(1, Link("Glossary", "design.html#glossary"))
    return nav

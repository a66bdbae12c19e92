"""Turn this project's docstrings into what mkdocstrings renders.

They are plain text: ``name: text`` in lines of their own for arguments and fields, doctests, names in single backticks.
A field that repeats one of a base class to change its default keeps that one's words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import griffe

ENTRY = re.compile(r"^(\w+): ")
NAME = re.compile(r"(?<!`)`([A-Za-z]\w+)(?:\.(\w+))?`(?!`)")


class PlainDocstrings(griffe.Extension):
    """Rewrites the docstrings of a package once it is read."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs: object) -> None:
        targets = public(pkg)
        for one in list(objects(pkg)):
            if isinstance(one, griffe.Class):
                inherit(one)
        for one in list(objects(pkg)):
            if one.docstring:
                one.docstring.value = rewritten(one, one.docstring.value, targets)


def public(package: griffe.Module) -> dict[str, griffe.Object | griffe.Alias]:
    """What the package exports at its top, by name: what docstrings may link to."""
    return {str(name): package[str(name)] for name in package.exports or ()}


def objects(module: griffe.Object) -> Iterator[griffe.Object]:
    """Everything that is defined in a module and in those below it."""
    for member in module.members.values():
        if isinstance(member, griffe.Object):
            yield member
            yield from objects(member)


def inherit(cls: griffe.Class) -> None:
    """Give fields without a docstring the one of a base class."""
    for name, member in cls.members.items():
        if isinstance(member, griffe.Attribute) and not member.docstring:
            known = (base.members[name].docstring for base in cls.mro() if name in base.members)
            if words := next(filter(None, known), None):
                member.docstring = griffe.Docstring(words.value, parent=member)


def entries(paragraph: str, known: set[str]) -> dict[str, str]:
    """The texts of a paragraph of ``name: text`` lines; none where it is another paragraph."""
    parts = re.split(r"\n(?=\S)", paragraph)
    found = [ENTRY.match(part) for part in parts]
    if not all(match and match[1] in known for match in found):
        return {}
    return {match[1]: part[match.end() :] for match, part in zip(found, parts, strict=True) if match}


def rewritten(one: griffe.Object, text: str, targets: dict[str, griffe.Object | griffe.Alias]) -> str:
    """The docstring as the renderer reads it."""
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", text):
        if paragraph.startswith(">>>"):
            paragraphs.append(f"```pycon\n{paragraph}\n```")
            continue
        listed = {} if paragraph.startswith("    ") else entries(paragraph, places(one))
        if not listed:
            paragraphs.append(linked(paragraph, one, targets))
        elif isinstance(one, griffe.Function):
            lines = [f"    {name}: {linked(words, one, targets)}" for name, words in listed.items()]
            paragraphs.append("\n".join(["Args:", *(line.replace("\n", "\n    ") for line in lines)]))
        else:
            for name, words in listed.items():
                member = one.members[name]
                if isinstance(member, griffe.Object) and not member.docstring:
                    member.docstring = griffe.Docstring(re.sub(r"\n +", "\n", words), parent=member)
    return "\n\n".join(paragraphs)


def places(one: griffe.Object) -> set[str]:
    """The names that an entry of an object's docstring may describe."""
    if isinstance(one, griffe.Function):
        return {parameter.name for parameter in one.parameters}
    return set(one.members) if isinstance(one, griffe.Class) else set()


def linked(text: str, one: griffe.Object, targets: dict[str, griffe.Object | griffe.Alias]) -> str:
    """Link the public names in a text, and their documented members."""

    def link(match: re.Match[str]) -> str:
        name, member = match[1], match[2]
        target = targets.get(name)
        if target is None or target.canonical_path == one.canonical_path:
            return match[0]
        if member is None:
            return f"[{match[0]}][adaptive_constraints.{name}]"
        known = target.members.get(member) if target.is_class else None
        return f"[{match[0]}][{target.canonical_path}.{member}]" if known and known.docstring else match[0]

    return NAME.sub(link, text)

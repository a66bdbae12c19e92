"""Notebooks as pages: run when the site is built, since they are kept without outputs."""

from __future__ import annotations

import posixpath
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

TIMEOUT = 1_500
"""Seconds that one cell may take."""


def run(notebook: nbformat.NotebookNode) -> None:
    """Run every cell in a folder that is then removed; an error of a cell ends the build."""
    with TemporaryDirectory() as folder:
        place = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=TIMEOUT, resources=place).execute()


@event_priority(90)
def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add a page and its pictures for each notebook; the notebook itself stays beside them, to be fetched."""
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        assert file.abs_src_path is not None
        notebook = nbformat.read(file.abs_src_path, as_version=4)
        if config.extra["run_notebooks"]:
            run(notebook)
        text, resources = MarkdownExporter().from_notebook_node(notebook)
        stem = Path(file.src_uri).stem
        for name, content in resources["outputs"].items():
            text = text.replace(f"({name})", f"({stem}-{name})")
            folder = posixpath.dirname(file.src_uri)
            files.append(File.generated(config, f"{folder}/{stem}-{name}", content=content))
        files.append(File.generated(config, file.src_uri.removesuffix(".ipynb") + ".md", content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead from the page of a notebook to the notebook itself."""
    notebook = page.file.src_uri.removesuffix(".md") + ".ipynb"
    if files.get_file_from_path(notebook) is None:
        return markdown
    heading, rest = markdown.lstrip().split("\n", 1)
    return f"{heading}\n\n[Fetch this page as a notebook]({posixpath.basename(notebook)})\n{rest}"

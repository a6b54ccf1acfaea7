"""Pages: a template filled in, and the files of a report, each of which appears whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

from fewscope.connectors.storage.atomic import write_atomic
from fewscope.connectors.storage.filesystem import open_filesystem


def fill(template: str, filters: Mapping[str, Callable[..., Any]] | None = None, **content: Any) -> str:
    """A template of this folder with its content; every string from outside is escaped, what is missing is an error."""
    return _template(template, tuple((filters or {}).items())).render(**content)


@lru_cache(maxsize=16)
def _template(name: str, filters: tuple[tuple[str, Callable[..., Any]], ...]) -> jinja2.Template:
    """A compiled template: to compile one takes half a second, longer than to fill it in."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= dict(filters)
    return environment.get_template(name)


def write_files(out: str, files: Mapping[str, bytes]) -> None:
    """Write files into `out`, a folder or an fsspec URL, in their order.

    Raises
    ------
    OutputError
        The disk is full or read-only, or the object store refuses.
    """
    filesystem, root = open_filesystem(out)
    for name, content in files.items():
        write_atomic(filesystem, f"{root}/{name}", content)

"""Where pictures lie that a file of labels names: in its folder, in one of images beside it, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from fewscope.connectors.support.pair_names import PICTURES
from fewscope.errors import SupportError

ELSEWHERE = re.compile(r"/|[A-Za-z]:|[A-Za-z][A-Za-z0-9+.-]*://")
"""Beginnings of names that lead out of any folder: of a path from the root, of a drive, of a URL."""


class PicturePlaces:
    """Folders in which pictures are looked for.

    Parameters
    ----------
    filesystem
        Of fsspec.
    folders : sequence of str
        In this order.
    """

    def __init__(self, filesystem: Any, folders: Sequence[str]) -> None:
        self._filesystem = filesystem
        self.folders = [folder.rstrip("/") for folder in dict.fromkeys(folders)]
        self._names: dict[str, dict[str, bool]] = {}

    def find(self, name: str) -> str | None:
        """Path of a picture; None if there is none. A name that leads elsewhere stands for its last part."""
        for parts in parts_of(name):
            for folder in self.folders:
                parent = "/".join([folder, *parts[:-1]])
                if self._listed(parent).get(parts[-1]):
                    return f"{parent}/{parts[-1]}"
        return None

    def picture_of(self, path: str, stated: str) -> str:
        """The picture that a file of labels is drawn on: of the file's name, else of the name that it states.

        Raises
        ------
        SupportError
            It is missing, or may be one of several.
        """
        stem = PurePosixPath(path).stem
        beside = [picture for picture in self.pictures() if PurePosixPath(picture).stem == stem]
        named = self.find(stated)
        if named in beside or (named is not None and not beside):
            return str(named)
        if len(beside) == 1:
            return beside[0]
        if beside:
            raise SupportError(f"{path}: may be drawn on {beside[0]} or {beside[1]}; keep one of them")
        raise SupportError(
            f"{path}: its picture {stated!r} is not in {' or '.join(self.folders)}; put it there"
        )

    def pictures(self) -> list[str]:
        """Paths of all pictures in the folders."""
        return [
            f"{folder}/{name}"
            for folder in self.folders
            for name, is_file in sorted(self._listed(folder).items())
            if is_file and not name.startswith(".") and name.lower().endswith(PICTURES)
        ]

    def _listed(self, folder: str) -> dict[str, bool]:
        """Names in a folder, and whether each is a file; empty if there is no such folder."""
        if folder not in self._names:
            try:
                entries = self._filesystem.ls(folder, detail=True)
            except (FileNotFoundError, NotADirectoryError, ValueError, OSError):
                entries = []
            self._names[folder] = {
                PurePosixPath(entry["name"].rstrip("/")).name: entry["type"] == "file" for entry in entries
            }
        return self._names[folder]


def parts_of(name: str) -> list[list[str]]:
    """Paths below a folder that a picture's name may mean: with its folders, and without them.

    >>> parts_of("train\\\\a.png"), parts_of("../../etc/passwd")
    ([['train', 'a.png'], ['a.png']], [['passwd']])
    """
    plain = name.replace("\\", "/")
    parts = [part for part in plain.split("/") if part not in ("", ".")]
    if not parts or parts[-1] == ".." or "\0" in name:
        return []
    if ".." in parts or ELSEWHERE.match(plain):
        parts = parts[-1:]
    return [parts, parts[-1:]] if len(parts) > 1 else [parts]

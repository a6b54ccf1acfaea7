"""The files that a slide consists of, and whether they can be read."""

from __future__ import annotations

import os
import struct

from fewscope.connectors.storage.fingerprint import files_below, named_in
from fewscope.errors import SourceError

HEAD_BYTES = 2**16
"""Of a DICOM file, in which its series is named."""


def check_file(uri: str, path: str) -> None:
    """Check that a local file can be read.

    Raises
    ------
    SourceError
        It is a folder, empty, not there, or not readable; for errors, it is called ``uri``.
    """
    try:
        if os.path.isdir(path):
            raise SourceError(
                f"{uri}: is a folder in which no slide or picture is found; give a file in it (.mrxs, .dcm, ...)"
            )
        if os.path.getsize(path) == 0:
            raise SourceError(f"{uri}: is empty (0 bytes); copy it again from where it came")
        with open(path, "rb"):
            pass
    except FileNotFoundError as error:
        raise SourceError(f"{uri}: no such file; check the path") from error
    except OSError as error:
        raise SourceError(f"{uri}: cannot be read ({error.strerror}); check its permissions") from error


def slide_files(path: str, vendor: str) -> list[tuple[str, str]]:
    """(name, path) of every file of a slide; the first one, which names the slide, under no name.

    Parameters
    ----------
    path
        Path of the file that is opened.
    vendor
        OpenSlide's name of the format. MIRAX keeps its pixels in a folder of the slide's name, DICOM in the files of
        one series, Hamamatsu's VMS and VMU in the files that the slide's file names; all others in one file.
    """
    folder, name = os.path.split(path)
    others: list[tuple[str, str]] = []
    if vendor == "mirax":
        others = files_below(os.path.splitext(path)[0])
    elif vendor == "dicom":
        series = dicom_series(path)
        files = named_in(folder, os.listdir(folder or ".") if series else [])
        others = [(other, file) for other, file in files if other != name and dicom_series(file) == series]
    elif vendor == "hamamatsu" and not name.lower().endswith(".ndpi"):
        with open(path, encoding="utf-8", errors="replace") as file:
            values = [line.partition("=")[2].strip() for line in file]
        others = named_in(folder, values)
    return [("", path), *others]


def dicom_series(path: str) -> str | None:
    """SeriesInstanceUID of a DICOM file in explicit little endian, as slides are; None where there is none.

    The tag is looked for in the first 64 KiB, which hold everything before the pixels of a slide.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return None
    tag = b"\x20\x00\x0e\x00UI"
    at = head.find(tag)
    if head[128:132] != b"DICM" or at < 0 or at + 8 > len(head):
        return None
    (length,) = struct.unpack_from("<H", head, at + len(tag))
    return head[at + 8 : at + 8 + length].decode("ascii", "replace").rstrip("\0 ")

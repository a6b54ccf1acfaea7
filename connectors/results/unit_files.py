"""Small files of units in the working folder of a run, ``<out>/.fewscope``: tables, arrays, texts, shared arrays."""

import io
import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from fewscope.connectors.storage.atomic import write_atomic
from fewscope.connectors.storage.digests import Digests, digest_of
from fewscope.connectors.storage.filesystem import is_local, open_filesystem

FOLDER = ".fewscope"


@dataclass(slots=True)
class UnitFiles:
    """Files of units, by name; each is written whole or not at all. Picklable.

    Attributes
    ----------
    out : str
        Output folder, a local path or an fsspec URL.

    Raises
    ------
    ValueError
        A name is not made of letters, digits, "_", "-" and ".".
    """

    out: str

    def save_table(self, name: str, table: pa.Table) -> Digests:
        """Keep a table (Parquet, zstd) until the run is finished; the digest of its file, for a marker."""
        buffer = io.BytesIO()
        pq.write_table(table.combine_chunks(), buffer, compression="zstd")
        return self._write("tables", f"{check_name(name)}.parquet", buffer.getvalue())

    def load_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Load the table of `save_table`, all columns or some; FileNotFoundError if there is none."""
        return pq.read_table(io.BytesIO(self._read(f"tables/{check_name(name)}.parquet")), columns=columns)

    def save_arrays(self, name: str, **arrays: npt.NDArray[Any]) -> Digests:
        """Keep arrays of any shape and numeric dtype (npz) until the run is finished; the digest of their file."""
        for key, array in arrays.items():
            if np.asarray(array).dtype.hasobject:
                raise TypeError(f"array {key} of {name} holds Python objects; give a numeric dtype")
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]  # a key named allow_pickle is not ours
        return self._write("arrays", f"{check_name(name)}.npz", buffer.getvalue())

    def load_arrays(self, name: str) -> dict[str, npt.NDArray[Any]]:
        """Load the arrays of `save_arrays`; FileNotFoundError if there are none."""
        with np.load(io.BytesIO(self._read(f"arrays/{check_name(name)}.npz")), allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}

    def save_text(self, name: str, text: str) -> Digests:
        """Keep a text (UTF-8, zstd) until the run is finished; the digest of its file."""
        buffer = pa.BufferOutputStream()
        with pa.CompressedOutputStream(buffer, "zstd") as stream:
            stream.write(text.encode())
        return self._write("texts", f"{check_name(name)}.zst", buffer.getvalue().to_pybytes())

    def load_text(self, name: str) -> str:
        """Load the text of `save_text`; FileNotFoundError if there is none."""
        data = self._read(f"texts/{check_name(name)}.zst")
        with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
            return bytes(stream.read()).decode()

    @property
    def is_local(self) -> bool:
        """Whether the folder is on a local or mounted disk."""
        return is_local(self._locate("")[0])

    def keep_array(self, name: str, array: npt.NDArray[Any]) -> None:
        """Share an array with other workers that they can do without. Not durable: the disk is not waited for."""
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        data = digest_of(buffer.getbuffer()).encode() + b"\n" + buffer.getvalue()
        write_atomic(*self._locate(f"lent/{check_name(name)}.npy"), data, durable=False)

    def find_kept(self, name: str) -> npt.NDArray[Any] | None:
        """Load an array of `keep_array`; None if it is missing or damaged."""
        try:
            with open(self._locate(f"lent/{check_name(name)}.npy")[1], "rb") as file:
                digest, _, data = file.read().partition(b"\n")
        except OSError:
            return None
        if digest_of(data).encode() != digest:
            return None
        return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))

    def drop_kept(self, name: str) -> None:
        """Remove an array of `keep_array`, if it exists."""
        with suppress(FileNotFoundError):
            os.unlink(self._locate(f"lent/{check_name(name)}.npy")[1])

    def _locate(self, name: str) -> tuple[AbstractFileSystem, str]:
        fs, root = open_filesystem(self.out)
        return fs, f"{root}/{FOLDER}/{name}".rstrip("/")

    def _write(self, folder: str, name: str, data: bytes) -> Digests:
        name = f"{folder}/{name}" if folder else name
        write_atomic(*self._locate(name), data)
        return {f"{FOLDER}/{name}": digest_of(data)}

    def _read(self, name: str) -> bytes:
        fs, path = self._locate(name)
        return bytes(fs.cat_file(path))

    def _read_json(self, name: str) -> dict[str, Any] | None:
        """The JSON object in a file; None if the file is missing or is not one."""
        try:
            value = json.loads(self._read(name))
        except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None


_NAME: Callable[[str], re.Match[str] | None] = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*").fullmatch


def check_name(name: str) -> str:
    """The name, if it can be part of a path on every disk and store; else ValueError."""
    if not _NAME(name):
        raise ValueError(f"name {name!r} is not made of letters, digits, '_', '-' and '.'; rename it")
    return name

"""The working folder of a run, ``<out>/.fewscope``: markers of finished units, and their small intermediate files.

``out`` is a local path or an fsspec URL (``s3://bucket/prefix``, ``memory://...``). Every file appears whole or not at
all (`connectors.storage.atomic`). There are no locks: one driver claims the folder and assigns the units.
"""

import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from fewscope.connectors.storage.atomic import write_atomic
from fewscope.connectors.storage.filesystem import (
    is_local,
    list_names,
    open_filesystem,
    output_errors,
    remove,
)
from fewscope.errors import OutputError, RunMismatch

FOLDER = ".fewscope"
# Outputs of a run in --out; --overwrite removes these names and nothing else.
OUTPUTS = (
    "result.zarr",
    "instances.parquet",
    "instances.geojson.gz",
    "mask.tif",
    "probability.tif",
    "features.gpkg",
    "features.parquet",
    "centreline.parquet",
    "report.html",
    "report.json",
)
# Needed until the run is finished; removed by `WorkDir.finish`.
TEMPORARY = ("scratch.zarr", "tables", "arrays", "texts", "lent")

State = Literal["new", "resume", "finished"]


def canonical_json(value: object) -> str:
    """JSON with sorted keys, without spaces and NaN: equal values have equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def hash_manifest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of ``manifest``, in hex.

    >>> hash_manifest({"a": 1, "b": 2}) == hash_manifest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(canonical_json(manifest).encode()).hexdigest()


def _flatten(value: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(value, Mapping) and (value or not prefix):
        return {
            key: text
            for name, item in value.items()
            for key, text in _flatten(item, f"{prefix}.{name}" if prefix else str(name)).items()
        }
    return {prefix: value if isinstance(value, str) else canonical_json(value)}


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:40]}...{text[-16:]}"


def describe_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """``key: was X, now Y`` for each key that differs, sorted; nested keys are joined by dots.

    >>> describe_difference({"tile": 224, "model": {"name": "a"}}, {"tile": 192, "model": {"name": "a"}})
    'tile: was 224, now 192'
    """
    before, after = _flatten(old), _flatten(new)
    keys = sorted(key for key in {**before, **after} if before.get(key) != after.get(key))
    return "; ".join(
        f"{key}: was {_shorten(before.get(key, 'absent'))}, now {_shorten(after.get(key, 'absent'))}"
        for key in keys
    )


@dataclass(slots=True)
class WorkDir:
    """The working folder of one run. Picklable: workers receive it after `claim`, with the run's hash.

    Attributes
    ----------
    out : str
        Output folder, a local path or an fsspec URL.
    run_hash : str or None
        Hash of the manifest; None until `claim`. Markers with another hash are ignored.

    Examples
    --------
    >>> work = WorkDir("memory://docs/workdir")
    >>> work.claim({"source": "slide.svs", "tile": 224})
    'new'
    >>> work.write_marker("r000000_c000000", {"n": 3})
    >>> WorkDir("memory://docs/workdir").claim({"source": "slide.svs", "tile": 224})
    'resume'
    >>> work.read_markers()
    {'r000000_c000000': {'n': 3}}
    >>> work.finish()
    >>> work.claim({"source": "slide.svs", "tile": 224})
    'finished'
    """

    out: str
    run_hash: str | None = None

    def claim(self, manifest: Mapping[str, Any], overwrite: bool = False) -> State:
        """Claim the output folder for the run that ``manifest`` describes.

        Parameters
        ----------
        manifest : mapping
            Everything that determines the result, as JSON values.
        overwrite : bool
            Remove an existing run (its outputs and working folder, nothing else) and start again.

        Returns
        -------
        {"new", "resume", "finished"}

        Raises
        ------
        RunMismatch
            The folder holds another run and ``overwrite`` is False, or files that belong to no run.
        OutputError
            The folder cannot be created or written, or is a file.
        """
        manifest = json.loads(canonical_json(manifest))  # tuples become lists, as they will when read back
        self.run_hash = hash_manifest(manifest)
        with output_errors(self.out):
            return self._claim(manifest, overwrite)

    def _claim(self, manifest: Mapping[str, Any], overwrite: bool) -> State:
        fs, root = open_filesystem(self.out)
        if fs.isfile(root):
            raise OutputError(f"{self.out} is a file, not a folder; move it away or use another --out")
        names = list_names(fs, root)
        record = self._read_json("manifest.json")
        if record is None and "manifest.json" not in list_names(*self._locate("")):
            foreign = [name for name in names if name != FOLDER]
            if foreign:
                raise RunMismatch(
                    f"{self.out} is not empty and holds no run ({foreign[0]}); use another --out"
                )
            self._write_manifest(manifest, clearing=False)
            return "new"
        if overwrite or (record or {}).get("clearing"):
            self._start_anew(manifest)
            return "new"
        if record is None:
            raise RunMismatch(f"{self.out}/{FOLDER}/manifest.json is damaged; use --overwrite to start anew")
        if record.get("hash") != self.run_hash:
            differences = describe_difference(record.get("manifest", {}), manifest)
            raise RunMismatch(
                f"{self.out} holds another run: {differences}; use --overwrite to start anew or another --out"
            )
        if (self._read_json("finished.json") or {}).get("run") == self.run_hash:
            self._remove_temporary()  # a crash may have come between the marker and the clean-up
            return "finished"
        return "resume"

    def write_marker(self, name: str, row: Mapping[str, Any]) -> None:
        """Mark unit ``name`` as done, with its small result ``row`` (JSON values). Call it after its shards are
        written."""
        text = canonical_json({"run": self._claimed(), "row": row})
        self._write("markers", f"{_check(name)}.json", text.encode())

    def read_markers(self) -> dict[str, dict[str, Any]]:
        """Rows of finished units by name, sorted; damaged markers and those of other runs are ignored."""
        run = self._claimed()
        fs, folder = self._locate("markers")
        names = [
            name for name in list_names(fs, folder) if name.endswith(".json") and not name.startswith(".")
        ]
        with ThreadPoolExecutor(8) as threads:  # an object store takes tens of milliseconds for each
            records = list(threads.map(self._read_json, [f"markers/{name}" for name in names]))
        return {
            name.removesuffix(".json"): record["row"]
            for name, record in zip(names, records, strict=True)
            if record is not None and record.get("run") == run and isinstance(record.get("row"), dict)
        }

    def save_table(self, name: str, table: pa.Table) -> None:
        """Store a table (Parquet, zstd) until the run is finished."""
        buffer = io.BytesIO()
        pq.write_table(table.combine_chunks(), buffer, compression="zstd")
        self._write("tables", f"{_check(name)}.parquet", buffer.getvalue())

    def load_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Load the table of `save_table`, all columns or some; FileNotFoundError if there is none."""
        return pq.read_table(io.BytesIO(self._read(f"tables/{_check(name)}.parquet")), columns=columns)

    def save_arrays(self, name: str, **arrays: npt.NDArray[Any]) -> None:
        """Store arrays of any shape and numeric dtype (npz) until the run is finished."""
        for key, array in arrays.items():
            if np.asarray(array).dtype.hasobject:
                raise TypeError(f"array {key} of {name} holds Python objects; give a numeric dtype")
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]  # no key is named allow_pickle
        self._write("arrays", f"{_check(name)}.npz", buffer.getvalue())

    def load_arrays(self, name: str) -> dict[str, npt.NDArray[Any]]:
        """Load the arrays of `save_arrays`; FileNotFoundError if there are none."""
        with np.load(io.BytesIO(self._read(f"arrays/{_check(name)}.npz")), allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}

    def save_text(self, name: str, text: str) -> None:
        """Store a text (UTF-8, zstd) until the run is finished."""
        buffer = pa.BufferOutputStream()
        with pa.CompressedOutputStream(buffer, "zstd") as stream:
            stream.write(text.encode())
        self._write("texts", f"{_check(name)}.zst", buffer.getvalue().to_pybytes())

    def load_text(self, name: str) -> str:
        """Load the text of `save_text`; FileNotFoundError if there is none."""
        data = self._read(f"texts/{_check(name)}.zst")
        with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
            return bytes(stream.read()).decode()

    @property
    def is_local(self) -> bool:
        """Whether the folder is on a local or mounted disk."""
        return is_local(self._locate("")[0])

    def is_done(self, name: str) -> bool:
        """Whether unit ``name`` has a marker, of this run or of one that was interrupted in `claim`."""
        fs, path = self._locate(f"markers/{_check(name)}.json")
        return bool(fs.exists(path))

    def keep_array(self, name: str, array: npt.NDArray[Any]) -> None:
        """Share an array with other workers that they can do without. Not durable: the disk is not waited for."""
        buffer = io.BytesIO()
        np.savez(buffer, array=array)  # a ZIP archive has a checksum
        write_atomic(*self._locate(f"lent/{_check(name)}.npz"), buffer.getbuffer(), durable=False)

    def find_kept(self, name: str) -> npt.NDArray[Any] | None:
        """Load an array of `keep_array`; None if it is missing or damaged."""
        try:
            path = self._locate(f"lent/{_check(name)}.npz")[1]
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                return np.asarray(archive["array"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def drop_kept(self, name: str) -> None:
        """Remove an array of `keep_array`, if it exists."""
        with suppress(FileNotFoundError):
            os.unlink(self._locate(f"lent/{_check(name)}.npz")[1])

    def finish(self) -> None:
        """Mark the run as finished, then remove its intermediate files."""
        self._write("", "finished.json", canonical_json({"run": self._claimed()}).encode())
        self._remove_temporary()

    def _claimed(self) -> str:
        if self.run_hash is None:
            raise RuntimeError(f"{self.out} is not claimed; call claim(manifest) first")
        return self.run_hash

    def _locate(self, name: str) -> tuple[AbstractFileSystem, str]:
        fs, root = open_filesystem(self.out)
        return fs, f"{root}/{FOLDER}/{name}".rstrip("/")

    def _write(self, folder: str, name: str, data: bytes) -> None:
        fs, path = self._locate(f"{folder}/{name}" if folder else name)
        write_atomic(fs, path, data)

    def _read(self, name: str) -> bytes:
        fs, path = self._locate(name)
        return bytes(fs.cat_file(path))

    def _read_json(self, name: str) -> dict[str, Any] | None:
        """The JSON object in a file; None if the file is missing or is not one."""
        try:
            value = json.loads(self._read(name))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def _write_manifest(self, manifest: Mapping[str, Any], clearing: bool) -> None:
        record = {"clearing": clearing, "hash": self.run_hash, "manifest": manifest}
        self._write("", "manifest.json", json.dumps(record, sort_keys=True, indent=1).encode())

    def _start_anew(self, manifest: Mapping[str, Any]) -> None:
        # The flag "clearing" makes a crash during the removal safe: the next claim resumes it.
        self._write_manifest(manifest, clearing=True)
        fs, root = open_filesystem(self.out)
        for name in OUTPUTS:
            remove(fs, f"{root}/{name}")
        for name in ("finished.json", "markers"):
            remove(*self._locate(name))
        self._remove_temporary()
        self._write_manifest(manifest, clearing=False)

    def _remove_temporary(self) -> None:
        for name in TEMPORARY:
            remove(*self._locate(name))


_NAME: Callable[[str], re.Match[str] | None] = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*").fullmatch


def _check(name: str) -> str:
    if not _NAME(name):
        raise ValueError(f"name {name!r} is not made of letters, digits, '_', '-' and '.'; rename it")
    return name

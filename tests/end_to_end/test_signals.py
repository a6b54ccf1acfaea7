"""A job that is told to stop says so in one line."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.helpers.machine import ROOT

PROGRAM = """
import argparse, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell has put in the background
sys.path.insert(0, sys.argv[1])
from fewscope.jobs.common import call

def run(args):
    try:
        print("running", flush=True)
        time.sleep(60)
    except KeyboardInterrupt as interrupt:
        if sys.argv[2] == "converts":
            raise RuntimeError("the stream has failed") from interrupt
        raise
    finally:
        print("cleaned up", flush=True)

sys.exit(call(run, argparse.Namespace(verbose=False)))
"""


@pytest.mark.parametrize(
    ("sent", "code", "library"),
    [(signal.SIGTERM, 143, ""), (signal.SIGINT, 130, ""), (signal.SIGTERM, 143, "converts")],
)
def test_a_job_that_is_stopped_cleans_up_and_says_so_in_one_line(
    sent: signal.Signals, code: int, library: str
) -> None:
    """Also where a library makes an error of its own of the interrupt, as pyogrio does while it writes."""
    job = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(ROOT), library],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with job:
        assert job.stdout is not None
        while job.stdout.readline() != "running\n":
            assert job.poll() is None
        job.send_signal(sent)
        out, errors = job.communicate(timeout=30)
    assert job.returncode == code
    assert errors == "stopped; the same command resumes\n"
    assert out == "cleaned up\n"

"""A job on the Ray of ``RAY_ADDRESS``, as a program: ``python -m tests.chaos.on_ray ARGUMENTS...``, for what kills it.

Says on a line of stdout when each stage begins. The model takes its time, so that something is left to be killed.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import fewscope.jobs.segmenting
import fewscope.pipeline.run
from fewscope.jobs import segment_raster, segment_wsi
from fewscope.pipeline.execution import ray_start
from fewscope.pipeline.report.builder import Clock
from tests.chaos.program import prepare
from tests.helpers import fakes

SECONDS_PER_BATCH = 0.3
HEAD_GONE_S = "CHAOS_HEAD_GONE_S"
"""Variable for how long a job waits for a head that does not answer, s; default: as for people."""


class TellingClock(Clock):
    """Tells the stages."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        os.write(TOLD, f"{name}\n".encode())
        with super().stage(name):
            yield


TOLD = -1


def main() -> int:
    """Run the job; its exit code."""
    global TOLD
    TOLD = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    kind, *arguments = sys.argv[1:]
    prepare()
    load = functools.partial(fakes.Slow, os.devnull, SECONDS_PER_BATCH)
    fewscope.jobs.segmenting.model_loader = lambda config: load  # type: ignore[assignment]
    fewscope.pipeline.run.Clock = TellingClock  # type: ignore[misc]
    ray_start.HEAD_GONE_S = float(os.environ.get(HEAD_GONE_S, ray_start.HEAD_GONE_S))
    return (segment_wsi if kind == "slide" else segment_raster).main(arguments)


if __name__ == "__main__":
    sys.exit(main())

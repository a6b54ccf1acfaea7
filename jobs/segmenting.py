"""What the segmenting jobs share once their command lines are parsed: configurations, one pool of workers, counts.

Imports the whole pipeline: to be imported when a job runs, not when it is asked for help.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import posixpath
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from typing import Any

from fewscope.connectors.results.reader import open_result
from fewscope.connectors.stain_options import Positive
from fewscope.connectors.support.load import is_annotations
from fewscope.connectors.support.slide_files import time_drawn_on
from fewscope.errors import ConfigError, HolesError, OutputError
from fewscope.jobs.common import BAD_INPUT, EXPECTED, HOLES, complain, stop_if_told
from fewscope.jobs.folders import folder_names, series_names
from fewscope.jobs.run_progress import ProgressFile
from fewscope.pipeline.calibration.encoding_cache import EncodingCache
from fewscope.pipeline.config import SegmentConfig, check_workers
from fewscope.pipeline.estimate import estimate
from fewscope.pipeline.execution.pool import LocalPool, Pool
from fewscope.pipeline.execution.progress import Monitor
from fewscope.pipeline.plan import model_loader
from fewscope.pipeline.predictor import precisions_of
from fewscope.pipeline.report.series import Done
from fewscope.pipeline.report.study import PAGE, TABLE, write_study
from fewscope.pipeline.run import segment


def configs_of(
    args: argparse.Namespace,
    sources: list[str],
    times: Sequence[tuple[int | None, ...]] = (),
    **more: Any,
) -> list[SegmentConfig]:
    """One configuration for each source, from the options of the same names; several get folders of their own.

    Parameters
    ----------
    times
        Time points of each source, one configuration for each; empty: the sources have none.
    """
    times = times or [(None,)] * len(sources)
    fields = {field.name for field in dataclasses.fields(SegmentConfig)}
    given = {name: value for name, value in vars(args).items() if name in fields}
    given |= {"positive": tuple(map(Positive.parse, given.get("positive", ())))}
    given |= {"class_names": tuple(args.class_names), "scale": None, **more}
    given |= {"support": args.support[0], "more_support": tuple(args.support[1:])}
    if any(time is not None for of_source in times for time in of_source) and not given["support_time"]:
        given |= {"support_time": time_drawn_on([uri for uri in args.support if is_annotations(uri)])}
    if len(sources) == 1 and len(times[0]) == 1:
        return [SegmentConfig(source=sources[0], **(given | {"time": times[0][0]}))]
    base = args.out.rstrip("/")
    found = []
    for source, of_source, names in zip(
        sources, times, series_names(folder_names(sources), times), strict=True
    ):
        own = given if len(of_source) == 1 else given | {"support_time": given["support_time"] or 1}
        for time, name in zip(of_source, names, strict=True):
            found.append(SegmentConfig(source=source, **(own | {"out": f"{base}/{name}", "time": time})))
    return found


def run_all(
    todo: list[SegmentConfig], args: argparse.Namespace, summary: Callable[[dict[str, Any]], str]
) -> int:
    """All sources over one pool of workers; a source that fails does not stop the others."""
    check_workers(args.workers, args.gpus_per_worker)
    load = model_loader(todo[0])
    model = load()
    if args.estimate:
        for source, of_source in itertools.groupby(todo, lambda config: config.source):
            first, *others = of_source
            print(estimate(first, model))
            if others:
                print(f"  each of the {len(others) + 1} time points of {source} takes about as much")
        return 0
    if args.local and todo[0].precision not in ("auto", *precisions_of(model)):
        raise ConfigError(
            f"--precision {todo[0].precision}: {model.processor} does not compute in it; use float32, or leave it out"
        )
    exit_codes, encodings = {0}, EncodingCache(model)
    workers: Pool
    if args.local:
        workers = LocalPool(lambda: model)
    else:
        from fewscope.pipeline.execution.ray_pool import RayPool  # Ray takes a second to import

        workers = RayPool(load, args.workers, args.gpus_per_worker, args.unit_timeout_s)
    progress = ProgressFile(args.progress_json)
    with workers as pool, closing(progress), _Study(todo, args.out.rstrip("/")) as study:
        for config in todo:
            try:
                monitor = Monitor(functools.partial(progress.event, config.source, time_point=config.time))
                report = segment(config, pool, model, encodings, monitor=monitor)
                study.add(config, report)
                progress.done(config.source, report, config.time)
                warnings = [f"  warning: {note}" for note in report["notes"]]
                page = f"  {config.out.rstrip('/')}/report.html"
                print(f"{config.label}: {summary(report)}", *warnings, page, sep="\n", flush=True)
            except EXPECTED as error:
                stop_if_told()
                exit_codes.add(HOLES if isinstance(error, HolesError) else BAD_INPUT)
                reported = None
                if isinstance(error, HolesError):  # its report is written
                    reported = open_result(config.out).report
                    progress.done(config.source, reported, config.time)
                study.add(config, reported, error)
                progress.failed(config.source, error, config.time)
                complain(error)
    return BAD_INPUT if BAD_INPUT in exit_codes else max(exit_codes)


class _Study(AbstractContextManager["_Study"]):
    """Writes the summary of several sources when the run ends, also if it is interrupted; none of a single one."""

    def __init__(self, todo: Sequence[SegmentConfig], out: str) -> None:
        self._several, self._out = len(todo) > 1, out
        self._done: list[Done] = []

    def add(
        self, config: SegmentConfig, report: dict[str, Any] | None, error: BaseException | None = None
    ) -> None:
        """A source that is finished, or has failed."""
        text = " ".join(str(error).split()) if error else ""
        folder = posixpath.basename(config.out)
        self._done.append(Done(config.source, folder, report, text, config.time))

    def __exit__(self, *_: object) -> None:
        if not self._several or not any(one.report for one in self._done):
            return
        try:
            write_study(self._out, self._done)
        except OutputError as error:
            complain(error)
            return
        print(f"{self._out}/{PAGE}, {TABLE}: all {len(self._done)} sources", flush=True)

"""What the segmenting jobs share once their command lines are parsed: configurations, one pool of workers, counts.

Imports the whole pipeline: to be imported when a job runs, not when it is asked for help.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Callable
from contextlib import closing
from typing import Any

from fewscope.connectors.results.reader import open_result
from fewscope.errors import ConfigError, HolesError
from fewscope.jobs.common import BAD_INPUT, EXPECTED, HOLES, complain, stop_if_told
from fewscope.jobs.folders import folder_names
from fewscope.jobs.run_progress import ProgressFile
from fewscope.pipeline.calibration.model_selection import EncodingCache
from fewscope.pipeline.config import SegmentConfig, check_workers
from fewscope.pipeline.estimate import estimate
from fewscope.pipeline.execution.pool import LocalPool, Pool
from fewscope.pipeline.execution.progress import Monitor
from fewscope.pipeline.plan import model_loader
from fewscope.pipeline.predictor import precisions_of
from fewscope.pipeline.run import segment


def configs_of(args: argparse.Namespace, sources: list[str], **more: Any) -> list[SegmentConfig]:
    """One configuration for each source, from the options of the same names; several get folders of their own."""
    fields = {field.name for field in dataclasses.fields(SegmentConfig)}
    given = {name: value for name, value in vars(args).items() if name in fields}
    given |= {"class_names": tuple(args.class_names), "scale": None, **more}
    if len(sources) == 1:
        return [SegmentConfig(source=sources[0], **given)]
    base = args.out.rstrip("/")
    return [
        SegmentConfig(source=source, **(given | {"out": f"{base}/{name}"}))
        for source, name in zip(sources, folder_names(sources), strict=True)
    ]


def run_all(
    todo: list[SegmentConfig], args: argparse.Namespace, summary: Callable[[dict[str, Any]], str]
) -> int:
    """All sources over one pool of workers; a source that fails does not stop the others."""
    check_workers(args.workers, args.gpus_per_worker)
    load = model_loader(todo[0])
    model = load()
    if args.estimate:
        for config in todo:
            print(estimate(config, model))
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
    with workers as pool, closing(progress):
        for config in todo:
            try:
                monitor = Monitor(functools.partial(progress.event, config.source))
                report = segment(config, pool, model, encodings, monitor=monitor)
                progress.done(config.source, report)
                warnings = [f"  warning: {note}" for note in report["notes"]]
                page = f"  {config.out.rstrip('/')}/report.html"
                print(f"{config.source}: {summary(report)}", *warnings, page, sep="\n", flush=True)
            except EXPECTED as error:
                stop_if_told()
                exit_codes.add(HOLES if isinstance(error, HolesError) else BAD_INPUT)
                if isinstance(error, HolesError):  # its report is written
                    progress.done(config.source, open_result(config.out).report)
                progress.failed(config.source, error)
                complain(error)
    return BAD_INPUT if BAD_INPUT in exit_codes else max(exit_codes)

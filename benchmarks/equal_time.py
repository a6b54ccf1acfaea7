"""Train several networks for the same processor time each: the small examples of docs/benchmarks.md.

    python benchmarks/equal_time.py --data DATA --minutes 8 --out runs/equal
    python benchmarks/equal_time.py --data DATA --minutes 8 --networks panet --rates panet=1e-4 --out runs/equal

The first steps of each network are timed, in processor time of one thread with the making of the episodes, and as many
steps are trained as fit into the minutes: a schedule has to know its end. All use the recipe ``modern`` with one
episode a step. Stopped, the same command goes on where it was. One JSON line a network.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.records import emit
from fewscope.model.networks.registry import NETWORKS

TRAIN = Path(__file__).resolve().parents[1] / "jobs" / "train.py"
DEFAULT = ("compact-S", "vgg16-paper", "hsnet-vgg16", "panet", "canet", "guided", "vgg16-released", "oslsm")
TIMED = 6
"""Steps that are timed; the first of them does not count."""


class _EnoughSteps(Exception):
    """Ends the timing."""


def options_of(args: argparse.Namespace, network: str, steps: int) -> list[str]:
    """What ``train`` is called with, but for --out."""
    rates = dict(rate.split("=") for rate in args.rates)
    rate = ["--learning-rate", rates[network]] if network in rates else []
    return [
        *("--data", str(args.data), "--split", "train", "--network", network, "--crop", str(args.crop)),
        *("--episodes-per-step", "1", "--steps", str(steps), "--loader-workers", "0", *rate),
        *("--report-every", str(args.report_every), "--validate-every", str(100 * args.report_every)),
    ]


def seconds_per_step(args: argparse.Namespace, network: str) -> float:
    """Median processor time of the first steps, but for the very first."""
    from fewscope.jobs.train import job_of, parse
    from fewscope.model.episodes.category import load_categories
    from fewscope.model.training.loop import train

    with tempfile.TemporaryDirectory() as folder:
        job = job_of(parse([*options_of(args, network, 100), "--out", folder]))
        assert job.data is not None
        moments: list[float] = []

        def note(_step: int) -> None:
            moments.append(time.process_time())
            if len(moments) == TIMED + 1:
                raise _EnoughSteps

        classes = load_categories(job.data, job.split)
        with contextlib.suppress(_EnoughSteps):
            train(job.config, classes, Path(folder), options=job.options, on_step=note)
    return median(b - a for a, b in pairwise(moments[1:]))


def main(argv: list[str] | None = None) -> int:
    """Train one network after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="class folders with splits/train.txt")
    parser.add_argument("--minutes", type=float, required=True, help="processor time of each network")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(DEFAULT))
    parser.add_argument("--rates", nargs="+", default=[], metavar="NETWORK=RATE", help="learning rates")
    parser.add_argument("--crop", type=int, default=128, help="side of the pictures, px (default 128)")
    parser.add_argument("--report-every", type=int, default=50, help="steps between checkpoints (default 50)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    args = parser.parse_args(argv)
    for network in args.networks:
        out, plan = args.out / network, args.out / f"{network}.json"
        if (out / "weights.safetensors").exists():
            continue
        args.out.mkdir(parents=True, exist_ok=True)
        if not plan.exists():
            seconds = seconds_per_step(args, network)
            steps = max(1, int(args.minutes * 60 / seconds))
            plan.write_text(json.dumps({"s_per_step": seconds, "steps": steps}))
        planned = json.loads(plan.read_text())
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, str(TRAIN), *options_of(args, network, planned["steps"])]
        subprocess.run([*command, "--out", str(out)], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        emit("equal time", {"network": network, "crop": args.crop, "cpu_minutes": used / 60, **planned})
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The long form: ``python -m tests.chaos``, or ``make chaos``. Prints a table: kind, tried, held, failed."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.harness import Row, Trial, disturbances
from tests.chaos.scenes import make_scenes
from tests.helpers.machine import ROOT

BUILD = ROOT / "build" / "chaos"


def main() -> int:
    """Try all kinds in turn until the time is over; 1 if something did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="only kinds whose name contains one; default: all"
    )
    minutes = float(os.environ.get("CHAOS_MINUTES", "10"))
    parser.add_argument(
        "--minutes", type=float, default=minutes, help="for all kinds together (CHAOS_MINUTES)"
    )
    seed = int(os.environ.get("CHAOS_SEED", time.time()))
    parser.add_argument("--seed", type=int, default=seed, help="first")
    parser.add_argument("--no-ray", action="store_true", help="without a cluster")
    parser.add_argument("--build", type=Path, default=BUILD, help="where failing cases are kept")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fewscope-chaos-") as folder:
        scenes = make_scenes(Path(folder))
        chosen = [
            one
            for one in disturbances(scenes, on_ray=not args.no_ray)
            if not args.words or any(word in one.name for word in args.words)
        ]
        if not chosen:
            parser.error(f"no kind has {' or '.join(args.words)} in its name")
        rows = {one.name: Row() for one in chosen}
        print(f"{len(chosen)} kinds, {args.minutes:g} minutes, from seed {args.seed}", flush=True)
        end, number = time.monotonic() + args.minutes * 60, args.seed
        with Trial(Path(folder) / "cases", args.build) as trial:
            while time.monotonic() < end:
                # each gets an equal part of the time, but those that take long at least one attempt
                one = min(chosen, key=lambda one: (rows[one.name].tried > 0, rows[one.name].seconds))
                began, row = time.monotonic(), rows[one.name]
                wrong = trial.once(one, row, number)
                row.seconds += time.monotonic() - began
                number += 1
                if wrong is not None:
                    print(f"FAILED {one.name}: {row.failures[-1]}", flush=True)
    print(f"\n{'kind':<36}{'tried':>8}{'held':>8}{'failed':>8}")
    for name, row in [*rows.items(), ("all", _sum(list(rows.values())))]:
        print(f"{name:<36}{row.tried:>8}{row.held:>8}{len(row.failures):>8}")
    return 1 if any(row.failures for row in rows.values()) else 0


def _sum(rows: list[Row]) -> Row:
    return Row(sum(row.tried for row in rows), 0.0, [one for row in rows for one in row.failures])


if __name__ == "__main__":
    sys.exit(main())

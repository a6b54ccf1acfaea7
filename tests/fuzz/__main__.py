"""The long form: ``python -m tests.fuzz``, or ``make fuzz``. Prints a table: kind, tried, held, failed."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from tests.fuzz.harness import Count, run_kind
from tests.fuzz.kinds import KINDS
from tests.helpers.machine import ROOT

BUILD = ROOT / "build" / "fuzz"


def main() -> int:
    """Try all kinds, or some; 1 if a case did not hold."""
    names = [kind.name for kind in KINDS]
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"some of: {', '.join(names)}; default: all")
    minutes = float(os.environ.get("FUZZ_MINUTES", "10"))
    parser.add_argument(
        "--minutes", type=float, default=minutes, help="for all kinds together (FUZZ_MINUTES)"
    )
    parser.add_argument(
        "--seed", type=int, default=int(os.environ.get("FUZZ_SEED", time.time())), help="first"
    )
    parser.add_argument("--build", type=Path, default=BUILD, help="where failing cases are kept")
    args = parser.parse_args()
    if unknown := set(args.kinds) - set(names):
        parser.error(f"no such kind: {', '.join(sorted(unknown))}")
    chosen = args.kinds or names
    share = args.minutes * 60 / len(chosen)
    rows: dict[str, Count] = {}
    print(f"{len(chosen)} kinds, {share:.0f} s each, from seed {args.seed}")
    print(f"{'kind':<16}{'tried':>8}{'held':>8}{'failed':>8}", flush=True)
    for name in chosen:
        rows[name] = row = run_kind(name, args.build, seconds=share, first_seed=args.seed)
        print(f"{name:<16}{row.tried:>8}{row.held:>8}{row.failed:>8}", flush=True)
    total = [sum(getattr(row, name) for row in rows.values()) for name in ("tried", "held", "failed")]
    print(f"{'all':<16}{total[0]:>8}{total[1]:>8}{total[2]:>8}")
    for name, row in rows.items():
        for fault, kept in row.faults.items():
            print(f"\n{name}, {row.n_of_fault[fault]} times: {kept[0].partition(': ')[2]}")
            print(f"  kept in {args.build}: {', '.join(one.partition(':')[0] for one in kept)}")
    return 1 if total[2] else 0


if __name__ == "__main__":
    sys.exit(main())

"""Mean image IoU of a network on classes it was not trained on, 5 shots: one JSON line per class, then the means.

    python benchmarks/fewshot.py --data ~/fewshot --split val --domains micro sat

The threshold is 0.5, and beside it the one chosen by leave-one-out on the support set, as the jobs do. Episodes are
drawn with a fixed seed; support and queries of an episode are disjoint. Intervals: 95 %, bootstrap over classes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from model.corpus import Category, load_corpus
from model.segmenter import Segmenter, load_segmenter
from pipeline.calibrate import leave_one_out, masked_iou


def evaluate(
    model: Segmenter, category: Category, episodes: int, shots: int, queries: int, seed: int
) -> dict[str, float]:
    """Mean image IoU over the queries of a few episodes of one class, at 0.5 and at the chosen threshold."""
    images = category.images.permute(0, 2, 3, 1).numpy()
    labels = category.masks.numpy().astype(np.uint8)
    rng = np.random.default_rng(seed)
    fixed, chosen, promised = [], [], []
    for _ in range(episodes):
        order = rng.permutation(len(images))
        support, query = order[:shots], order[shots : shots + queries]
        features = model.encode(images[support], labels[support])
        loo = leave_one_out(model, images[support], labels[support])
        assert loo is not None
        probability = model.predict(images[query], features)[:, 0]
        fixed += [masked_iou(p >= 0.5, y) for p, y in zip(probability, labels[query], strict=True)]
        chosen += [masked_iou(p >= loo.threshold, y) for p, y in zip(probability, labels[query], strict=True)]
        promised.append(loo.mean_iou)
    return {
        "iou": float(np.mean(fixed)),
        "iou_at_chosen_threshold": float(np.mean(chosen)),
        "leave_one_out": float(np.mean(promised)),
        "queries": len(fixed),
    }


def interval(values: np.ndarray, seed: int = 0) -> list[float]:
    """95 % bootstrap interval of the mean."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (10_000, len(values)))].mean(1)
    return [round(float(v), 3) for v in np.quantile(means, [0.025, 0.975])]


def main(argv: list[str] | None = None) -> int:
    """Print JSON lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder in FSS-1000's layout")
    parser.add_argument("--split", default=None, help="classes of splits/NAME.txt (default: all folders)")
    parser.add_argument("--domains", nargs="*", help="only these domains of classes.csv")
    parser.add_argument("--model", default="compact")
    parser.add_argument("--weights")
    parser.add_argument("--episodes", type=int, default=3, help="per class (default 3)")
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--queries", type=int, default=5, help="per episode (default 5)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    model = load_segmenter(args.model, args.weights)
    rows = []
    for category in load_corpus(args.data, args.split):
        if args.domains and category.domain not in args.domains:
            continue
        if len(category.images) <= args.shots:
            continue
        began = time.perf_counter()
        row = evaluate(model, category, args.episodes, args.shots, args.queries, args.seed)
        rows.append({"class": category.name, "domain": category.domain} | row)
        print(json.dumps(rows[-1] | {"seconds": round(time.perf_counter() - began, 1)}), flush=True)
    for domain in sorted({row["domain"] for row in rows}):
        of_domain = [row for row in rows if row["domain"] == domain]
        line = {"domain": domain, "classes": len(of_domain)}
        for key in ("iou", "iou_at_chosen_threshold"):
            values = np.array([row[key] for row in of_domain])
            line |= {key: round(float(values.mean()), 3), f"{key}_interval": interval(values)}
        print(json.dumps(line))
    if len(rows) > 2:
        correlation = np.corrcoef(
            [row["leave_one_out"] for row in rows], [row["iou_at_chosen_threshold"] for row in rows]
        )
        print(
            json.dumps(
                {"leave_one_out_against_true_iou": round(float(correlation[0, 1]), 3), "classes": len(rows)}
            )
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Train the compact network on episodes.

python jobs/train.py --data ~/fss1000 --out runs/first --steps 8000
python jobs/train.py --synthetic-only --out runs/from-nothing --steps 2000
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from model.corpus import load_corpus
from model.train import TrainConfig, train
from model.weights import load_weights, save_weights


def main(argv: list[str] | None = None) -> int:
    """Parse, train, save ``weights.safetensors``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument(
        "--data", type=Path, help="folder of class folders with <k>.jpg and <k>.png (FSS-1000's layout)"
    )
    data.add_argument(
        "--synthetic-only", action="store_true", help="train from nothing but generated episodes"
    )
    parser.add_argument("--out", type=Path, required=True, help="run folder: log.jsonl, checkpoint, weights")
    parser.add_argument("--split", default=None, help="use the classes of splits/NAME.txt only")
    parser.add_argument(
        "--shippable", action="store_true", help="leave out pairs whose licence forbids shipping"
    )
    parser.add_argument("--size", choices=("S", "L"), default="S")
    parser.add_argument(
        "--initial", type=Path, help="weights to start from (.safetensors), with or without depth"
    )
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--crop", type=int, default=112, help="side of the training crops, px (default 112)")
    parser.add_argument("--episodes-per-step", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    corpus = []
    if args.data is not None:
        corpus = load_corpus(args.data, args.split, shippable_only=args.shippable)
    config = TrainConfig(
        size=args.size,
        steps=args.steps,
        crop=args.crop,
        episodes_per_step=args.episodes_per_step,
        learning_rate=args.learning_rate,
        seed=args.seed,
    )
    initial = None if args.initial is None else load_weights(args.initial)
    net = train(config, corpus, args.out, initial=initial, threads=args.threads)
    save_weights(net, args.out / "weights.safetensors", {"recipe": str(config)})
    print(args.out / "weights.safetensors")
    return 0


if __name__ == "__main__":
    sys.exit(main())

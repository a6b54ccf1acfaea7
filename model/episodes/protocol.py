"""Which pictures support and which are asked, for a published number: fixed by a seed, before any model is there.

Two ways to draw, both with support and query disjoint:

- every image of a class is the query of one episode, with supports drawn from the others (`exhaustive_episodes`): the
  2,400 test queries of FSS-1000;
- a few episodes of several queries (`sampled_episodes`), where a class has hundreds of images.

What is drawn depends on the seed, the class's name and how many pictures it has, and on nothing else: leaving classes
out changes no other class. An episode of 5 shots is that of 7 without its last two supports, with the same queries as
long as the class has pictures enough, so that numbers of shots are compared on the same questions.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

SHOTS = (1, 3, 5, 7)
"""Numbers of support pictures that are usual; FSS-1000's tables have 1 and 5."""

SEED = 1000


@dataclass(frozen=True, slots=True)
class EpisodeDraw:
    """Positions of an episode's pictures within their class.

    Raises
    ------
    ValueError
        A picture is drawn twice.
    """

    category: str
    support: tuple[int, ...]
    query: tuple[int, ...]

    def __post_init__(self) -> None:
        drawn = self.support + self.query
        if not self.support or not self.query or len(set(drawn)) != len(drawn):
            raise ValueError(
                f"{self.category}: support {self.support} and query {self.query}; expected distinct pictures"
            )


def exhaustive_episodes(name: str, n_pictures: int, shots: int, seed: int = SEED) -> Iterator[EpisodeDraw]:
    """One episode for each picture of a class, in order, with `shots` distinct others as its support."""
    _check(name, n_pictures, shots, 1)
    for query in range(n_pictures):
        others = np.delete(np.arange(n_pictures), query)
        order = _generator(name, n_pictures, seed, query).permutation(others)
        yield EpisodeDraw(name, tuple(int(i) for i in order[:shots]), (query,))


def sampled_episodes(
    name: str, n_pictures: int, shots: int, episodes: int, queries: int, seed: int = SEED
) -> Iterator[EpisodeDraw]:
    """Some episodes of a class with up to `queries` queries each."""
    _check(name, n_pictures, shots, 1)
    for episode in range(episodes):
        order = [
            int(i) for i in _generator(name, n_pictures, seed, n_pictures + episode).permutation(n_pictures)
        ]
        # supports from the front, queries from the back: neither changes with the number of the other
        yield EpisodeDraw(name, tuple(order[:shots]), tuple(order[max(shots, n_pictures - queries) :]))


def _check(name: str, n_pictures: int, shots: int, queries: int) -> None:
    if shots < 1 or n_pictures < shots + queries:
        raise ValueError(
            f"{name}: {n_pictures} pictures are too few for {shots} shots and a query; leave the class out or ask for "
            f"at most {n_pictures - 1} shots"
        )


def _generator(name: str, n_pictures: int, seed: int, episode: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode()), n_pictures, episode])


def other_classes(
    name: str, others: Sequence[str], way: int, episode: int, seed: int = SEED
) -> tuple[str, ...]:
    """The other ``way - 1`` classes of a C-way episode that asks `name`, distinct and drawn from `others`.

    Raises
    ------
    ValueError
        There are too few others.
    """
    pool = sorted(set(others) - {name})
    if way < 2 or len(pool) < way - 1:
        raise ValueError(
            f"{name}: {len(pool)} other classes of its domain; expected at least {way - 1} for {way}-way"
        )
    drawn = _generator(name, len(pool), seed, episode).permutation(len(pool))[: way - 1]
    return tuple(pool[i] for i in drawn)

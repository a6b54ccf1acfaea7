"""Episodes of an evaluation: which images are supports and which are queries, fixed by a seed and by no model.

Two protocols, both with disjoint supports and queries:

- every image of a class is the query of one episode, with supports drawn from the others (`exhaustive_episodes`): the
  2,400 test queries of FSS-1000;
- a few episodes of several queries (`sampled_episodes`), where a class has hundreds of images.

An episode depends on the seed, the name of the class and its number of images alone: leaving classes out changes no
other class. An episode of 5 shots is that of 7 without its last two supports, with the same queries if the class has
enough images, so that numbers of shots are compared on the same queries.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fewscope.errors import ConfigError

SHOTS = (1, 3, 5, 7)
"""Usual numbers of support images; FSS-1000's tables have 1 and 5."""

SEED = 1000
"""Of the published numbers."""


@dataclass(frozen=True, slots=True)
class EpisodeDraw:
    """Images of an episode, by their places in the class.

    Attributes
    ----------
    category : str
        Name of the class.
    support, query : tuple[int, ...]
        Places, 0-based, all distinct.

    Raises
    ------
    ConfigError
        There is no support or no query, or an image occurs twice.
    """

    category: str
    support: tuple[int, ...]
    query: tuple[int, ...]

    def __post_init__(self) -> None:
        drawn = self.support + self.query
        if not self.support or not self.query or len(set(drawn)) != len(drawn):
            raise ConfigError(
                f"{self.category}: support {self.support} and query {self.query}; expected distinct images"
            )


def exhaustive_episodes(name: str, n_pictures: int, shots: int, seed: int = SEED) -> Iterator[EpisodeDraw]:
    """One episode for each image of a class, in order, with `shots` distinct others as its support.

    Raises
    ------
    ConfigError
        The class has too few images.
    """
    _check(name, n_pictures, shots, 1)
    for query in range(n_pictures):
        others = np.delete(np.arange(n_pictures), query)
        order = _generator(name, n_pictures, seed, query).permutation(others)
        yield EpisodeDraw(name, tuple(int(i) for i in order[:shots]), (query,))


def sampled_episodes(
    name: str, n_pictures: int, shots: int, episodes: int, queries: int, seed: int = SEED
) -> Iterator[EpisodeDraw]:
    """A number of episodes of a class with up to `queries` queries each.

    Raises
    ------
    ConfigError
        The class has too few images.
    """
    _check(name, n_pictures, shots, 1)
    for episode in range(episodes):
        order = [
            int(i) for i in _generator(name, n_pictures, seed, n_pictures + episode).permutation(n_pictures)
        ]
        # supports from the front, queries from the back: neither changes with the number of the other
        yield EpisodeDraw(name, tuple(order[:shots]), tuple(order[max(shots, n_pictures - queries) :]))


def _check(name: str, n_pictures: int, shots: int, queries: int) -> None:
    if shots < 1 or n_pictures < shots + queries:
        raise ConfigError(
            f"{name}: {n_pictures} images are too few for {shots} shots and a query; leave the class out or ask for "
            f"at most {n_pictures - 1} shots"
        )


def _generator(name: str, n_pictures: int, seed: int, episode: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode()), n_pictures, episode])


def other_classes(
    name: str, others: Sequence[str], way: int, episode: int, seed: int = SEED
) -> tuple[str, ...]:
    """Draw the other ``way - 1`` classes of an N-way episode whose queries show `name`, all distinct, from `others`.

    Raises
    ------
    ConfigError
        There are too few others.
    """
    pool = sorted(set(others) - {name})
    if way < 2 or len(pool) < way - 1:
        raise ConfigError(
            f"{name}: {len(pool)} other classes of its domain; expected at least {way - 1} for {way}-way"
        )
    drawn = _generator(name, len(pool), seed, episode).permutation(len(pool))[: way - 1]
    return tuple(pool[i] for i in drawn)

"""Episodes of a published number are fixed by a seed, and support and query never share a picture."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewscope.model.episodes.protocol import EpisodeDraw, exhaustive_episodes, sampled_episodes


@given(
    n=st.integers(2, 40), shots=st.integers(1, 8), queries=st.integers(1, 12), seed=st.integers(0, 2**32 - 1)
)
def test_support_and_query_are_disjoint_and_supports_distinct(n, shots, queries, seed):
    if shots >= n:
        with pytest.raises(ValueError, match="too few"):
            list(exhaustive_episodes("bus", n, shots, seed))
        return
    every = list(exhaustive_episodes("bus", n, shots, seed))
    assert [draw.query for draw in every] == [(i,) for i in range(n)]
    for draw in every + list(sampled_episodes("bus", n, shots, 3, queries, seed)):
        assert len(set(draw.support)) == len(draw.support) == shots
        assert not set(draw.support) & set(draw.query)
        assert set(draw.support + draw.query) <= set(range(n))
        assert 1 <= len(draw.query) <= max(queries, 1)


def test_fss1000_has_2400_test_queries():
    draws = [draw for i in range(240) for draw in exhaustive_episodes(f"class {i}", 10, 5)]
    assert len(draws) == 2400
    assert len({(draw.category, draw.query) for draw in draws}) == 2400


def test_fewer_shots_are_asked_the_same_questions_with_the_first_of_the_same_supports():
    for draw in (exhaustive_episodes, lambda n, k, s: sampled_episodes(n, k, s, 4, 6)):
        seven, one = list(draw("bus", 20, 7)), list(draw("bus", 20, 1))
        assert [d.query for d in seven] == [d.query for d in one]
        assert [d.support[:1] for d in seven] == [d.support for d in one]


def test_the_list_of_episodes_is_that_of_every_other_machine():
    """Published numbers rest on these draws: they may change in no version."""
    first, second, *_ = sampled_episodes("bus", 10, 5, 2, 3)
    assert (first.support, first.query) == ((9, 0, 7, 2, 6), (4, 3, 1))
    assert (second.support, second.query) == ((8, 7, 6, 2, 9), (0, 4, 3))


def test_a_draw_never_holds_a_picture_twice():
    with pytest.raises(ValueError, match="distinct"):
        EpisodeDraw("bus", (1, 2), (2,))

"""Calls of workers that die go to others; none is blamed for another one's deaths more than once."""

from __future__ import annotations

import random

from fewscope.pipeline.execution.attempts import MAX_DEATHS, Attempts, Call


def calls(n: int) -> list[Call]:
    return [Call("run", (i,)) for i in range(n)]


def test_a_worker_gets_as_many_calls_as_it_may_have() -> None:
    attempts: Attempts[str] = Attempts(2)
    first, second, third = calls(3)
    attempts.waiting.extend([first, second, third])
    assert [attempts.take("a") for _ in range(3)] == [first, second, None]
    attempts.done("a", first)
    assert attempts.take("a") is third
    assert attempts.n_left == 2


def test_after_a_death_each_call_is_tried_alone() -> None:
    attempts: Attempts[str] = Attempts(2)
    killer, innocent, other = calls(3)
    attempts.waiting.extend([killer, innocent, other])
    attempts.take("a"), attempts.take("a")
    assert attempts.died("a") == []
    assert attempts.take("b") is killer, "suspects come first"
    assert attempts.take("b") is None, "and have their worker for themselves"
    assert attempts.take("c") is innocent
    attempts.done("c", innocent)
    assert attempts.take("c") is other
    assert attempts.died("b") == []
    assert attempts.take("c") is None, "a worker is emptied for a suspect"
    attempts.done("c", other)
    assert attempts.take("c") is killer
    assert attempts.died("c") == [killer]
    assert attempts.n_left == 0
    assert (killer.n_deaths, innocent.n_deaths) == (MAX_DEATHS, 1)


def test_only_killers_are_given_up_however_things_go() -> None:
    """Workers that die at random beside those that calls kill, as machines do that are taken away."""
    for seed in range(50):
        rng = random.Random(seed)
        attempts: Attempts[int] = Attempts(2)
        todo = calls(30)
        killers = set(rng.sample(todo, 4))
        attempts.waiting.extend(todo)
        workers, n_started, n_accidents = [0, 1, 2], 3, 1
        done: set[Call] = set()
        given_up: set[Call] = set()
        for _ in range(10_000):
            if not attempts.n_left:
                break
            worker = rng.choice(workers)
            while attempts.take(worker):
                pass
            mine = attempts.running[worker]
            if not mine:
                continue
            call = rng.choice(mine)
            accident = n_accidents > 0 and rng.random() < 0.05
            if call in killers or accident:
                n_accidents -= accident
                given_up.update(attempts.died(worker))
                workers.remove(worker)
                workers.append(n_started)
                n_started += 1
            else:
                attempts.done(worker, call)
                done.add(call)
        assert given_up == killers
        assert done == set(todo) - killers

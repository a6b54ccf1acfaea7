"""Ray's head is seen to be gone before Ray ends the process, and one line says what to do."""

from __future__ import annotations

import socket

import pytest

from fewscope.errors import WorkerError
from fewscope.pipeline.execution import ray_start
from fewscope.pipeline.execution.ray_start import Head
from tests.helpers.machine import free_ports


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_start, "ASK_EVERY_S", 0.0)
    monkeypatch.setattr(ray_start, "ASK_AGAIN_S", 0.0)


def test_a_head_that_is_there_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        head = Head(f"127.0.0.1:{server.getsockname()[1]}")
        assert head.answers()
        assert head.answers()


def test_a_head_that_is_gone_for_long_ends_the_run_and_one_that_comes_back_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (port,) = free_ports(1)
    head = Head(f"127.0.0.1:{port}")
    assert not head.answers()
    with socket.create_server(("127.0.0.1", port)):
        assert head.answers()
    assert not head.answers()
    monkeypatch.setattr(ray_start, "HEAD_GONE_S", 0.0)
    with pytest.raises(WorkerError) as caught:
        head.answers()
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith(f"Ray is gone (127.0.0.1:{port} has not answered for ")
    assert "run the same command again" in said


def test_ray_waits_longer_than_we_do() -> None:
    assert ray_start.HEAD_GONE_S < ray_start.RECONNECT_S / 10

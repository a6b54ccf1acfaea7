"""Errors of training workers, without a cluster."""

import pickle
from types import SimpleNamespace

import pytest

from fewscope.errors import ConfigError, FewscopeError, WorkerError
from fewscope.pipeline.execution import ray_training


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ConfigError("no such split"), ConfigError),
        (ValueError("bad shape"), WorkerError),
        (FloatingPointError("the loss is not finite"), WorkerError),
    ],
)
def test_a_workers_error_reaches_the_driver_as_a_fewscope_error(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: type[FewscopeError]
) -> None:
    def run(device: object) -> list[str]:
        raise raised

    context = SimpleNamespace(get_world_rank=lambda: 1)
    monkeypatch.setattr(ray_training.ray.train, "get_context", lambda: context)
    monkeypatch.setattr(ray_training.ray.train.torch, "get_device", lambda: "cpu")
    answer = ray_training._work({"job": SimpleNamespace(run=run)})  # type: ignore[dict-item]
    with pytest.raises(expected, match=str(raised)):
        ray_training._weights(pickle.loads(pickle.dumps(answer)))

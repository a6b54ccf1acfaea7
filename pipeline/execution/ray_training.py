"""Data-parallel training: each rank is a worker of Ray Train, on one machine or on many.

A rank runs `model.training.job`; only the description of the job is sent. Every worker reads the data set itself, and
rank 0 writes the folder of the run, which all workers must be able to read.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.exceptions import RayError

from fewscope.errors import FewscopeError, WorkerError
from fewscope.model.training.job import TrainingJob
from fewscope.pipeline.execution.ray_start import start_ray

log = logging.getLogger(__name__)

RETRIES = 3
"""Times that the workers are restarted from the last checkpoint after one of them died."""


def train_on_ray(job: TrainingJob, n_workers: int) -> list[str]:
    """Train with `n_workers` workers, on GPUs if there is one for each.

    Returns
    -------
    The digest of the weights of each rank; all are equal.

    Raises
    ------
    FewscopeError
        As raised by `TrainingJob.run`.
    WorkerError
        There are fewer CPUs than workers, a worker met another error that would repeat, or workers died repeatedly; the
        same command resumes the training.
    """
    job.config.share(n_workers)
    started_here = not ray.is_initialized()
    if started_here:
        start_ray(worker_logs=True)
    try:
        resources = ray.cluster_resources()
        n_cpus, n_gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        use_gpu = n_gpus >= n_workers
        if n_workers > n_cpus and not os.environ.get("RAY_ADDRESS"):
            raise WorkerError(f"{n_workers} workers on {n_cpus} CPUs; give --workers {n_cpus} or fewer")
        log.info("%d workers, %s each", n_workers, "1 GPU" if use_gpu else "1 CPU")
        trainer = ray.train.torch.TorchTrainer(
            _work,  # type: ignore[arg-type]  # Ray's own types know no return value yet
            train_loop_config={"job": job},
            scaling_config=ray.train.ScalingConfig(num_workers=n_workers, use_gpu=use_gpu),
            run_config=ray.train.RunConfig(
                name="workers",
                storage_path=str(job.out / "ray"),
                failure_config=ray.train.FailureConfig(max_failures=RETRIES),
            ),
        )
        return _weights(trainer.fit().return_value)  # type: ignore[attr-defined]
    except (ray.train.TrainingFailedError, RayError) as error:
        reason = " ".join(str(error).split())[:300]
        raise WorkerError(
            f"the workers died {RETRIES + 1} times ({reason}); the same command resumes the training"
        ) from error
    finally:
        if started_here:
            ray.shutdown()


def _weights(answer: dict[str, Any]) -> list[str]:
    if "error" in answer:
        raise answer["error"]
    found: list[str] = answer["weights"]
    if len(set(found)) > 1:
        raise WorkerError(f"the workers ended with different weights ({found}); please report this")
    return found


def _work(config: dict[str, TrainingJob]) -> dict[str, Any]:
    """One rank. Errors that would repeat are returned, so that Ray retries only the others."""
    if ray.train.get_context().get_world_rank() == 0:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        return {"weights": config["job"].run(ray.train.torch.get_device())}
    except (ValueError, ArithmeticError) as error:
        return {"error": error if isinstance(error, FewscopeError) else WorkerError(str(error))}

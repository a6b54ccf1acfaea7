"""Tries disturbances one after another, counts what held, and keeps the folders of what did not."""

from __future__ import annotations

import shutil
import traceback
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.chaos import kinds
from tests.chaos.cluster import STAGES, TARGETS, Cluster, cluster, lost_machine
from tests.chaos.failing_store import failing_store
from tests.chaos.kinds import KINDS, Kind, may_mount
from tests.chaos.scenes import Scene


@dataclass
class Row:
    """A row of the table."""

    tried: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    @property
    def held(self) -> int:
        """How often the property held."""
        return self.tried - len(self.failures)


@dataclass(frozen=True)
class Disturbance:
    """A kind on a scene: what a row of the table counts."""

    name: str
    kind: Kind | None
    scene: Scene
    target: str = ""

    def attempt(self, random: Random, out: Path, made: Cluster | None) -> str | None:
        """What did not hold, a fault of the harness among it."""
        try:
            if self.kind is not None:
                return self.kind.attempt(self.scene, random, out)
            assert made is not None
            stage = random.choice(STAGES[self.scene.kind])
            return lost_machine(made, self.scene, self.target, stage, random, out)
        except Exception:
            return f"fault of the harness: {traceback.format_exc()}"


def disturbances(scenes: dict[str, Scene], *, on_ray: bool) -> list[Disturbance]:
    """All that can be tried here; what has to be mounted is left out where that is not allowed."""
    able = [kind for kind in KINDS if kind.needs != "mounts" or may_mount()]
    found = [
        Disturbance(f"{kind.name}, {name}", kind, scene) for kind in able for name, scene in scenes.items()
    ]
    if on_ray:
        for target in TARGETS:
            found += [
                Disturbance(f"Ray: {target} killed, {name}", None, scene, target)
                for name, scene in scenes.items()
            ]
    return found


class Trial:
    """Has a store and a cluster at hand, each from when it is first needed."""

    def __init__(self, folder: Path, kept: Path) -> None:
        self._folder, self._kept = folder, kept
        self._stack = ExitStack()
        self._cluster: Cluster | None = None
        self._n = 0

    def once(self, disturbance: Disturbance, row: Row, seed: int) -> str | None:
        """Try once and count it; what did not hold."""
        if disturbance.kind is not None and disturbance.kind.needs == "store" and not kinds.STORE:
            kinds.STORE.append(self._stack.enter_context(failing_store()))
            self._stack.callback(kinds.STORE.clear)
        if disturbance.kind is None and self._cluster is None:
            self._cluster = self._stack.enter_context(cluster())
        self._n += 1
        folder = self._folder / str(self._n)
        folder.mkdir(parents=True)
        wrong = disturbance.attempt(Random(seed), folder / "out", self._cluster)
        row.tried += 1
        if wrong is not None:
            name = "".join(c if c.isalnum() else "-" for c in disturbance.name)
            row.failures.append(f"{wrong} [seed {seed}, kept in {self._kept / f'{name}-{seed}'}]")
            shutil.rmtree(self._kept / f"{name}-{seed}", ignore_errors=True)
            self._kept.mkdir(parents=True, exist_ok=True)
            shutil.copytree(folder, self._kept / f"{name}-{seed}", symlinks=True)
        shutil.rmtree(folder)
        return wrong

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

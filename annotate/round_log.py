"""Rounds: whenever labels have rested for a moment, the support set is scored, and compared with the round before.

``rounds.jsonl`` has a line for each: when, of which labels, the held-out IoU, and the objects drawn and found. A round
that is worse than the one before with the same encoder and resolution says so; its labels, and those of any
round, can be put back.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewscope.annotate.labels import Changes
from fewscope.annotate.learning import Learning
from fewscope.annotate.session import OpenSource, Session
from fewscope.errors import Cancelled, LabelError

log = logging.getLogger(__name__)

FILE = "rounds.jsonl"
REST_S = 3.0
"""Labels that have not changed for so long are scored: a person looks."""

WORSE = 0.02
"""Loss of held-out IoU from which on a round counts as worse: smaller differences are noise with five patches."""


@dataclass(frozen=True, slots=True)
class Round:
    """One round.

    Attributes
    ----------
    number : int
        From 1.
    time : float
        Seconds since 1970.
    source : str
        Id of the source that was labelled last.
    digest : str
        Of the support set.
    labels : dict
        For each source's name the revision of its labels, and the digest of their file.
    n_prefilled : int
        Regions that the preview has filled in. Where a person left its outlines as they were, they agree with the
        network that is scored: the IoU is too high.
    encoder : str
        The frozen encoder that the network was scored with; "" for none.
    factor : float
        The working resolution that the patches had: so many times coarser than at the start.
    """

    number: int
    time: float
    revision: int
    source: str
    digest: str
    n_regions: int
    labels: dict[str, tuple[int, str]]
    iou: float | None = None
    iou_by_class: dict[str, float | None] = field(default_factory=dict)
    counts: list[dict[str, Any]] = field(default_factory=list)
    worse: bool = False
    state: str = "done"
    n_prefilled: int = 0
    encoder: str = ""
    factor: float = 1

    def described(self) -> dict[str, Any]:
        """What the page must know."""
        names = (
            "number",
            "time",
            "revision",
            "source",
            "iou",
            "iou_by_class",
            "counts",
            "n_regions",
            "n_prefilled",
            "worse",
            "state",
        )
        return {name: getattr(self, name) for name in names}

    def record(self) -> dict[str, Any]:
        """What the file keeps."""
        names = ("digest", "labels", "encoder", "factor")
        return self.described() | {name: getattr(self, name) for name in names}


Score = Callable[[Any, Any], Any]
"""`rounds.score_round`: a preview and a support set give a `RoundScore`."""


class RoundLog:
    """Scores rounds in a thread of its own.

    Parameters
    ----------
    session : Session
        Sources and where they are kept.
    learning : Learning
        Gives the support set and the preview.
    score : Score
        Scores a support set.
    rest_s : float
        As `REST_S`.
    """

    def __init__(self, session: Session, learning: Learning, score: Score, rest_s: float = REST_S) -> None:
        self._session, self._learning, self._score, self._rest_s = session, learning, score, rest_s
        self._path, self._encoder = session.out / FILE, session.config.encoder or ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="rounds", daemon=True)
        self.rounds: list[Round] = _read(self._path)
        self.scoring: Round | None = None

    def start(self) -> None:
        """Begin to watch for labels that rest."""
        self._thread.start()

    def close(self) -> None:
        """Stop; a round that is being scored is left out."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def described(self) -> list[dict[str, Any]]:
        """All rounds, the one that is being scored last."""
        scoring = self.scoring
        every = [*self.rounds, *([scoring] if scoring is not None else [])]
        before = [_before(every[:k], one) for k, one in enumerate(every)]
        return [
            one.described() | {"before": None if last is None else last.number}
            for one, last in zip(every, before, strict=True)
        ]

    def restore(self, number: int) -> tuple[OpenSource, Changes]:
        """Put the labels of a round back, of all sources; a change like any other, which can be undone.

        Returns
        -------
        The source that was labelled last in that round, and its changes.

        Raises
        ------
        LabelError
            There is no such round, or its labels are not in the journals any more.
        """
        found = next((one for one in self.rounds if one.number == number), None)
        if found is None:
            raise LabelError(f"there is no round {number}")
        answers: list[tuple[OpenSource, Changes]] = []
        for one in self._session.sources:
            if one.name in found.labels:
                answers.append((one, one.labels.restore(*found.labels[one.name])))
        if not answers:
            raise LabelError(f"round {number} is of other images")
        for one, _ in answers:
            self._session.tell(one)
        return next((answer for answer in answers if answer[0].id == found.source), answers[0])

    def _watch(self) -> None:
        last = self.rounds[-1].digest if self.rounds and self.rounds[-1].encoder == self._encoder else ""
        seen: Any = None
        while not self._stop.wait(min(0.5, self._rest_s)):
            support, preview = self._learning.support, self._learning.preview
            if support is None or preview is None or support is seen or support.n_dense < 2:
                continue
            if self._learning.rested_s < self._rest_s or not self._learning.wait_learned(0):
                continue
            seen, digest = support, support.digest()
            if digest == last:
                continue
            last = digest
            try:
                self._score_now(support, preview, digest)
            except Cancelled:
                return
            except Exception:  # of the network: the page goes on without this round
                log.exception("a round could not be scored")
                self.scoring = None

    def _score_now(self, support: Any, preview: Any, digest: str) -> None:
        sources = self._session.sources
        started = Round(
            number=len(self.rounds) + 1,
            time=round(time.time(), 3),
            revision=self._learning.revision,
            source=sources[self._learning.last_source].id,
            digest=digest,
            n_regions=support.n_dense,
            labels={one.name: one.labels.state_now() for one in sources},
            state="scoring",
            n_prefilled=sum(
                label.kind == "region" and label.source == "preview"
                for one in sources
                for label in one.labels.all()
            ),
            encoder=self._encoder,
            factor=self._session.choice.factor,
        )
        self.scoring = started
        self._tell(started)
        score = self._score(_Stoppable(preview, self._stop), support)
        last = _before(self.rounds, started)
        before = None if last is None else last.iou
        done = Round(
            **{name: getattr(started, name) for name in ("number", "time", "revision", "source", "digest")},
            n_regions=started.n_regions,
            n_prefilled=started.n_prefilled,
            encoder=started.encoder,
            factor=started.factor,
            labels=started.labels,
            iou=score.iou,
            iou_by_class=dict(zip(support.class_names, score.iou_by_class, strict=True)),
            counts=[
                {"class": name, "drawn": count.drawn, "found": count.found}
                for name, count in zip(support.class_names, score.counts, strict=True)
                if count is not None
            ],
            worse=before is not None and score.iou is not None and score.iou < before - WORSE,
        )
        if self._stop.is_set():
            return
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(done.record(), separators=(",", ":")) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.rounds.append(done)
        self.scoring = None
        self._tell(done)

    def _tell(self, one: Round) -> None:
        self._session.hub.publish({"type": "round", **one.described()})


class _Stoppable:
    """A preview, or its network, that refuses to go on once the server stops: scoring takes many calls of it."""

    def __init__(self, wrapped: Any, stop: threading.Event) -> None:
        self._wrapped, self._stop = wrapped, stop

    def __getattr__(self, name: str) -> Any:
        if self._stop.is_set():
            raise Cancelled("the server is stopping; the round is scored after the next start")
        return getattr(self._wrapped, name)

    def settled(self, timeout: float | None = None) -> Any:
        """The network, or None, as of the preview."""
        network = self._wrapped.settled(timeout)
        return None if network is None else _Stoppable(network, self._stop)


def _before(rounds: Sequence[Round], one: Round) -> Round | None:
    """The round that one is compared with: the last one before it with the same encoder and resolution."""
    alike = (one.encoder, one.factor)
    comparable = (other for other in reversed(rounds) if (other.encoder, other.factor) == alike)
    return next((other for other in comparable if other.iou is not None), None)


def _read(path: Path) -> list[Round]:
    """Rounds of earlier starts; lines that are damaged are left out."""
    rounds: list[Round] = []
    with suppress(OSError):
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, TypeError, KeyError, IndexError):
                values = json.loads(line)
                values["labels"] = {
                    str(name): (int(kept[0]), str(kept[1])) for name, kept in values["labels"].items()
                }
                rounds.append(Round(**values))
    return rounds

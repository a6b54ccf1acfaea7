"""Finished measurements of a benchmark, kept in its output folder: a stopped command goes on where it was.

A measurement is kept under a key of everything that it depends on: the pixels of the class, the weights, the processor
and the precision that they are computed with, the protocol with its seed, and Fewscope's version. The same key in
another run of the command, whatever else that run asks for, has the same result; anything else is measured.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fewscope._version import __version__
from fewscope.connectors.datasets.class_folders import ClassImages
from fewscope.connectors.results.unit_files import UnitFiles
from fewscope.connectors.storage.digests import digest_of

log = logging.getLogger(__name__)

FORMAT = 1
"""Of the measurements; counted up with every change of what a measurement is or how it is computed."""


class MeasurementStore:
    """Measurements as JSON values, one file each.

    Parameters
    ----------
    out : Path
        Output folder of the benchmark.
    models : Mapping[str, str]
        What the result of each model depends on, by the model's name: see `identity_of`.
    """

    def __init__(self, out: Path, models: Mapping[str, str]) -> None:
        self._files = UnitFiles(str(out))
        self._models = dict(models)
        self.n_recalled = 0

    def facts(self, kind: str, category: ClassImages, model: str, settings: object) -> str:
        """Everything that a measurement depends on, as text.

        Parameters
        ----------
        kind : str
            What is measured.
        category : ClassImages
            The class that it is measured on.
        model : str
            Name of the model; one without an entry in `models` has no weights, and its name says all.
        settings : object
            Of the protocol, with the seed; of numbers, texts, and what ``repr`` writes in full.
        """
        parts = (kind, class_digest(category), self._models.get(model, model), repr(settings))
        return json.dumps([FORMAT, __version__, *parts])

    def recall(self, facts: str) -> Any | None:
        """The value kept under some facts; None if there is none, or if its file is damaged."""
        name = _name(facts)
        try:
            kept = json.loads(self._files.load_text(name))
            value, digest = kept["value"], kept["digest"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            log.warning("measurement %s is damaged: measured again", name)
            return None
        if kept.get("facts") != facts or digest != _digest(facts, value):
            log.warning("measurement %s is damaged: measured again", name)
            return None
        self.n_recalled += 1
        return value

    def measured(
        self, kind: str, category: ClassImages, model: str, settings: object, measure: Callable[[], Any]
    ) -> Any:
        """The value kept under the facts of these arguments, or else measured, and kept."""
        facts = self.facts(kind, category, model, settings)
        kept = self.recall(facts)
        return self.keep(facts, measure()) if kept is None else kept

    def keep(self, facts: str, value: Any) -> Any:
        """Keep a JSON value, and return it."""
        text = json.dumps({"facts": facts, "digest": _digest(facts, value), "value": value})
        self._files.save_text(_name(facts), text)
        return value


def identity_of(network: str, model: Any) -> str:
    """What a model's result depends on: its network, its weights, and how these are computed."""
    return f"{network} {model.weights_digest} {model.processor} {model.precision}"


def class_digest(category: ClassImages) -> str:
    """SHA-256 of the names, images and labels of a class, in hex."""
    images, labels, _ = category.arrays()
    digest = hashlib.sha256(repr((category.name, category.domain, category.keys, images.shape)).encode())
    for array in (images, labels):
        digest.update(array.tobytes())
    return digest.hexdigest()


def _name(facts: str) -> str:
    return f"measured-{hashlib.sha256(facts.encode()).hexdigest()}"


def _digest(facts: str, value: Any) -> str:
    return digest_of(f"{facts}\n{json.dumps(value)}".encode())

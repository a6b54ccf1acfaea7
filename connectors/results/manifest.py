"""What determines a run, as JSON: its hash, its seal, and how two of them differ."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from fewscope.connectors.storage.digests import (
    digest_of,
)


def canonical_json(value: object) -> str:
    """JSON with sorted keys, without spaces and NaN: equal values have equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def hash_manifest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of ``manifest``, in hex.

    >>> hash_manifest({"a": 1, "b": 2}) == hash_manifest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(canonical_json(manifest).encode()).hexdigest()


def seal(record: Mapping[str, Any]) -> str:
    """Digest of a record without its own seal."""
    return digest_of(canonical_json({key: record[key] for key in record if key != "seal"}).encode())


def _flatten(value: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(value, Mapping) and (value or not prefix):
        return {
            key: text
            for name, item in value.items()
            for key, text in _flatten(item, f"{prefix}.{name}" if prefix else str(name)).items()
        }
    return {prefix: value if isinstance(value, str) else canonical_json(value)}


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:40]}...{text[-16:]}"


def describe_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """``key: was X, now Y`` for each key that differs, sorted; nested keys are joined by dots.

    >>> describe_difference({"tile": 224, "model": {"name": "a"}}, {"tile": 192, "model": {"name": "a"}})
    'tile: was 224, now 192'
    """
    before, after = _flatten(old), _flatten(new)
    keys = sorted(key for key in {**before, **after} if before.get(key) != after.get(key))
    return "; ".join(
        f"{key}: was {_shorten(before.get(key, 'absent'))}, now {_shorten(after.get(key, 'absent'))}"
        for key in keys
    )

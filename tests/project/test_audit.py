"""`make audit` never calls unchecked packages safe."""

from __future__ import annotations

import json

import pytest

from tests.helpers.audit import NOT_CHECKED, PASSED, VULNERABLE, judge

SAFE = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "c", "skip_reason": "Dependency not found on PyPI and could not be audited: c (1)"}


@pytest.mark.parametrize(
    ("packages", "code", "word"),
    [
        ([SAFE], PASSED, "1 packages checked"),
        ([SAFE, BAD], VULNERABLE, "b 2: CVE-1, fixed in 3"),
        ([UNKNOWN, UNKNOWN], NOT_CHECKED, "not checked"),
        ([SAFE, UNKNOWN], NOT_CHECKED, "unknown to the advisory service: c"),
        ([BAD, UNKNOWN], VULNERABLE, "CVE-1"),
        ([], NOT_CHECKED, "not checked"),
    ],
)
def test_verdicts(packages, code, word):
    verdict, lines = judge(json.dumps({"dependencies": packages}))
    assert verdict == code
    assert word in "\n".join(lines)


def test_no_answer_is_not_success():
    assert judge("")[0] == NOT_CHECKED

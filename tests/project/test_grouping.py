"""What `tests/conftest.py` asks of pytest-xdist is done: pytest 9.2 made it ignore the groups without a word."""

from __future__ import annotations

import os

import pytest


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="all tests run in this process")
def test_tests_of_a_file_stay_together(request: pytest.FixtureRequest) -> None:
    """xdist sends tests to the same process by what follows the @ in their ids."""
    assert request.node.nodeid.rpartition("@")[2] == "tests/project/test_grouping.py"

"""A report that several modules read."""

from __future__ import annotations

import pytest

from tests.helpers.reports import (
    run_report,
)


@pytest.fixture(scope="module")
def plain():
    return run_report()

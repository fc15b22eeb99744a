"""Prometheus' own judge of metrics and alerts."""

import shutil
from typing import Final

import pytest

WANTED: Final = "these tests want promtool, of Debian's package prometheus: make programs"


@pytest.fixture(scope="session")
def promtool() -> str:
    """The program. On a machine without one the tests that want it say so."""
    path = shutil.which("promtool")
    if path is None:
        pytest.skip(WANTED)
    return path

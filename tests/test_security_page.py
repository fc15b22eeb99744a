"""docs/security.md is true: every test, constant, setting and figure that it names is there, and is so."""

import importlib
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from mirror.core import config
from tests.test_documents import ELSEWHERE, Asked

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = (ROOT / "docs" / "security.md").read_text()
CONSTANTS: Final = sorted(set(re.findall(r"`((?:\w+\.)+_?[A-Z][A-Z_]*)`", PAGE)))
TESTS: Final = sorted(set(re.findall(r"`(test_\w+)(?:::(\w+))?`", PAGE)))
FIGURES: Final = sorted(set(re.findall(r"([\d,]+(?:\.\d+)?) ?([a-zA-Z]*)(?: [a-z ]+)? \(`([\w.]+)`\)", PAGE)))
UNITS: Final = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "s": 1, "min": 60, "h": 3600, "days": 86400}


def value(name: str) -> Any:
    """What a constant is, by its name below `mirror`, or below `hooks`."""
    module, _, constant = name.rpartition(".")
    for place in (f"mirror.{module}", module):
        try:
            return getattr(importlib.import_module(place), constant)
        except ModuleNotFoundError as error:
            if not place.startswith(str(error.name)):
                raise
    raise AssertionError(f"there is no {name}")


def names(path: Path) -> Iterator[str]:
    yield from re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.M)


def test_the_page_names_constants_figures_and_tests() -> None:
    assert min(len(CONSTANTS), len(FIGURES), len(TESTS)) > 30


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_is_there(name: str) -> None:
    assert value(name) is not None


@pytest.mark.parametrize(("number", "unit", "name"), FIGURES)
def test_a_figure_is_that_of_the_code(number: str, unit: str, name: str) -> None:
    is_so = value(name)
    if isinstance(is_so, timedelta):
        is_so = is_so.total_seconds()
    assert is_so == float(number.replace(",", "")) * UNITS.get(unit, 1)


@pytest.mark.parametrize(("module", "name"), TESTS)
def test_a_test_is_there(module: str, name: str) -> None:
    path = ROOT / "tests" / f"{module}.py"
    assert path.is_file() and (not name or name in names(path))


def test_a_setting_is_one() -> None:
    asked = Asked()
    config.from_env(asked, lambda _: "", "data")
    named = set(re.findall(r"`([A-Z][A-Z_]{3,})`", PAGE))
    assert named and named <= asked.names | ELSEWHERE

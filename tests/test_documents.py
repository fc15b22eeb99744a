"""README and docs/ are true: links lead somewhere, commands exist, settings are told; README is short."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from hooks import events, verify
from mirror.cli import arguments
from mirror.cli.commands import COMMANDS
from mirror.core import config
from tests.parts.repos import ENVIRONMENT, MAIN, Work, run_git
from tests.test_cli import COMMAND, Everref, everref, surroundings

__all__ = ["everref", "surroundings"]

ROOT: Final = Path(__file__).parents[1]
README: Final = ROOT / "README.md"
PAGES: Final = [README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]
KNOWN: Final = {*COMMANDS, "completion"}
LINES: Final = 140  # of README: five minutes
ELSEWHERE: Final = {"EVERREF_DEBUG", "FORWARDED_ALLOW_IPS"}  # settings that are read where they are used
PAGE: Final = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def anchors(page: Path) -> set[str]:
    """What a link into this page may name, as forges make it of headings."""
    found = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def shown(page: Path) -> Iterator[str]:
    """The commands that a page shows in blocks: what stands after a prompt, or begins with our name."""
    for block in re.findall(r"^```[a-z]*\n(.*?)^```", page.read_text(), re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            command = line.removeprefix("$ ").split("   ")[0]
            if command.startswith("everref "):
                yield command


@PAGE
def test_a_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)]*)\)", page.read_text())
    for link in links:
        if "://" not in link:
            name, _, anchor = link.partition("#")
            to = (page.parent / name).resolve() if name else page
            assert to.is_file(), link
            assert not anchor or anchor in anchors(to), link


def test_every_page_is_linked_from_readme_which_is_short() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= LINES
    linked = set(re.findall(r"\]\(([^)#]*)", text))
    assert {str(page.relative_to(ROOT)) for page in PAGES[1:]} <= linked


@PAGE
def test_a_command_that_is_shown_is_one_that_the_command_line_takes(page: Path) -> None:
    for command in shown(page):
        if page.name == "command-line.md" and re.search(r"[|\[]| [A-Z]+$|[A-Z]$", command):
            assert command.split()[1] in KNOWN, command  # a synopsis
        else:
            words = shlex.split(command.split(" > ")[0].split(" #")[0])
            assert arguments.parse(words[1:]).command in KNOWN, command


def test_every_command_is_on_its_page_and_in_readme() -> None:
    synopses = {command.split()[1] for command in shown(ROOT / "docs" / "command-line.md")}
    assert synopses == KNOWN
    table = "".join(line for line in README.read_text().splitlines() if line.startswith("| `"))
    assert not {name for name in COMMANDS if not re.search(rf"\b{name}\b", table)}


class Asked(Mapping[str, str]):
    """An environment without anything in it, which keeps what was asked for."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.names.add(name.removesuffix("_FILE"))
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def test_every_setting_is_in_the_table_of_settings_and_no_other() -> None:
    asked = Asked()
    config.from_env(asked, lambda _: "", "data")
    rows = re.findall(r"^\| (`[A-Z].*?) \|", (ROOT / "docs" / "configuration.md").read_text(), re.M)
    told = {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row)}
    assert told - ELSEWHERE == asked.names - ELSEWHERE


def test_what_readme_shows_first_works(everref: Everref, work: Work) -> None:
    work.commit("main")
    work.commit("main")
    backup, restore = list(shown(README))[:2]
    kept = everref(*backup.split()[1:-1], str(work.path), "--name", "acme/api")
    assert kept.out.startswith("acme/api  saved as #1 of ")
    back = everref(*shlex.split(restore.replace("#10", "#1"))[1:])
    assert back.out.startswith("acme/api  #1 of ") and back.out.rstrip().endswith("verified")


REMOTE: Final = "https://github.com/acme/api"  # in the place of which a test has a small repository
KEYS: Final = ("n" * 40, "k" * 40)  # the second is that of the fixture `everref`
DIFFERS: Final = (  # from one run to the next
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ \([^)]*\)", "TIME"),
    (r"\b[0-9a-f]{10,16}\b", "ID"),
    (r"https?://\S+/hooks/github/\S+", "URL"),
    (r"(?<=secret  )\S+", "SECRET"),
    (r"\d+", "N"),
)


def session(page: str, heading: str) -> list[tuple[str, list[str]]]:
    """The commands after a prompt below this heading, each with the lines that it is said to print."""
    text = (ROOT / "docs" / page).read_text()
    below = re.split(rf"^#+ {re.escape(heading)}$", text, flags=re.M)[1]
    said: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```\n(\$ .*?)^```", re.split(r"^## ", below, flags=re.M)[0], re.M | re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                said.append((line.removeprefix("$ "), []))
            else:
                said[-1][1].append(line)
    return said


def alike(lines: list[str]) -> list[str]:
    """The lines without what differs from one run to the next."""
    for pattern, word in DIFFERS:
        lines = [re.sub(pattern, word, line) for line in lines]
    return [" ".join(line.split()) for line in lines]


class Shell:
    """Types what a page shows, for a repo `acme/api` that was force-pushed: #10 of the page is #1 here."""

    def __init__(self, everref: Everref, work: Work, home: Path) -> None:
        self.place, self._work = everref.place, work
        programs = home / "programs"
        programs.mkdir(parents=True)
        (programs / "everref").write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
        (programs / "curl").write_text(
            f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n"
        )
        for program in programs.iterdir():
            program.chmod(0o755)
        path = f"{programs}:{everref.env['PATH']}"
        self.env = ENVIRONMENT | everref.env | {"HOME": str(home), "PATH": path}
        old = work.commit("main")
        self.types(f"everref backup {REMOTE} --name acme/api")
        work.set(MAIN, work.commit(None, parents=[]))
        work.tag("v1", old)
        self.types(f"everref backup {REMOTE} --name acme/api")

    def types(self, command: str) -> list[str]:
        """What the command prints."""
        line = command.replace(REMOTE, str(self._work.path)).replace("#10", "#1")
        done = subprocess.run(
            ["sh", "-c", line], env=self.env, cwd=self.place, capture_output=True, text=True
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        said = done.stdout.replace(str(self._work.path), REMOTE).replace(self.env["HOME"], "/home/alice")
        return said.splitlines()


@pytest.fixture
def shell(everref: Everref, work: Work, tmp_path: Path) -> Shell:
    return Shell(everref, work, tmp_path / "home")


def test_a_restore_by_commands_goes_as_its_page_shows(shell: Shell) -> None:
    for command, printed in session("restoring.md", "Restoring by commands"):
        assert alike(shell.types(command)) == alike(printed), command
    assert (shell.place / "api-clone" / "file-1").is_file()


def test_the_examples_of_the_command_line_work(shell: Shell) -> None:
    commands = [command for command, _ in session("command-line.md", "The command line")]
    assert len(commands) > 3
    for command in commands:
        shell.types(command)
    assert (Path(shell.env["HOME"]) / ".local/share/bash-completion/completions/everref").stat().st_size


def test_a_delivery_is_signed_by_hand_as_its_page_shows(shell: Shell, work: Work) -> None:
    (asked, printed), *by_hand = session("connections.md", "Webhooks")
    shell.env["BASE_URL"] = "https://everref.example.org"
    made = shell.types(f"{asked} --forge github")
    assert alike(made) == alike(printed)
    url, secret = (line.split()[1] for line in made[1:])
    work.commit("main")
    run_git("clone", "-q", work.path, shell.place / "clone")
    shell.place, shell.env = shell.place / "clone", shell.env | {"URL": url, "SECRET": secret}
    [curl] = shell.types("\n".join(command for command, _ in by_hand))
    words: list[str] = json.loads(curl)
    given = [word.split(": ", 1) for option, word in zip(words, words[1:], strict=False) if option == "-H"]
    headers, body = {name.lower(): value for name, value in given}, (shell.place / "push.json").read_bytes()
    verify.VERIFIERS["github"]([secret], body, headers, datetime.now(UTC))
    [update] = events.parse("github", headers, body).updates
    assert (update.name, update.after) == (MAIN, work.tip()) and words[-1] == url


def test_keys_are_changed_and_a_lost_database_is_rebuilt_as_the_page_shows(
    shell: Shell, empty_database: str
) -> None:
    shell.types("everref hook acme/api --forge github")
    shell.env["SECRET_KEYS"] = ",".join(KEYS)
    [(command, printed)] = session("operations.md", "Changing the keys")
    assert alike(shell.types(command)) == alike(printed)
    shell.env |= {"SECRET_KEYS": KEYS[0], "DATABASE_URL": empty_database}
    [(command, printed)] = session("operations.md", "When the database is lost")
    first, state = alike(shell.types(command))
    assert [first, state.split(" TIME ")[0]] == [alike(printed)[0], alike(printed)[1].split(" TIME ")[0]]

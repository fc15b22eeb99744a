"""README and docs/ are true: links lead somewhere, commands exist, settings are told; README is short."""

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from mirror.cli import arguments
from mirror.cli.commands import COMMANDS
from mirror.core import config
from tests.parts.repos import Work
from tests.test_cli import Everref, everref, surroundings

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

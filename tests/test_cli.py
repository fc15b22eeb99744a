"""The command line: what people and programs read, errors, exit codes; over real parts."""

import argparse
import inspect
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from mirror.backup.sync import Synced
from mirror.cli import arguments, environment, front, render, shapes
from mirror.cli.commands import COMMANDS, command
from mirror.cli.commands.restore import restore_code
from mirror.cli.render import Eye
from mirror.cli.terminal import Drawn, Out, paint, to_json
from mirror.core import words as words_of
from mirror.core.errors import Busy, LimitReached, NetworkError, Origin, OurFault, Refused, UsageError
from mirror.core.keyring import Keyring
from mirror.core.model import Kind, Part, Reason, RefChange, RefName, Repo, RepoId, Secret, Snapshot, Target
from mirror.core.redact import Redactor
from mirror.jobs.sweep import Swept
from mirror.restore.restore import RefResult, Restored, Result
from mirror.services import ssh_access
from mirror.store import repos
from mirror.store.backup.history import Logged
from mirror.store.discovery import credentials
from mirror.store.people import audit, links, people, teams, tokens
from mirror.store.repos import Failure, Overview
from mirror.upkeep.doctor import Finding
from mirror.upkeep.prune import Pruned
from mirror.upkeep.verify import Verified
from tests.parts import forked
from tests.parts.githttp import Fault, GitServer
from tests.parts.repos import Work, refs_of, run_git
from tests.parts.sshd import Sshd

NOW = datetime(2026, 3, 2, 9, 14, 44, tzinfo=UTC)
OID = Target(b"1234567890" * 4)
OTHER = Target(b"abcdef0123" * 4)
MAIN = RefName(b"refs/heads/main")
REPO = Repo(RepoId(UUID(int=7)), "acme/api", "https://git.example.org/acme/api.git", "sha1", NOW)
PART = Part("7/bundles/x.bundle", 1, 12, 12, 3_100_000, "ab" * 32, 90, 12, (), False)
SNAPSHOT = Snapshot(
    number=12,
    taken_at=NOW - timedelta(seconds=41),
    reason=Reason.MANUAL,
    object_format="sha1",
    head=Target(b"ref: refs/heads/main"),
    refs_count=48,
    refs_digest="cd" * 32,
    changes_count=3,
    epoch=1,
    log_entries=100,
    log_bytes=9000,
    segment=None,
    bundle=PART,
    manifest_sha256="ef" * 32,
    previous_sha256="01" * 32,
)
EYE = Eye(NOW)


# What people read.


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "just now"),
        (41, "41 s ago"),
        (119, "119 s ago"),
        (120, "2 min ago"),
        (3 * 3600, "3 h ago"),
        (3 * 86400, "3 days ago"),
        (100 * 86400, "3 months ago"),
        (800 * 86400, "2 years ago"),
        (-5, "in 5 s"),
    ],
)
def test_an_age_is_told_in_the_coarsest_unit_that_still_says_something(seconds: float, words: str) -> None:
    assert words_of.ago(NOW - timedelta(seconds=seconds), NOW) == words


def test_a_time_has_the_exact_one_at_hand() -> None:
    assert EYE.time(NOW - timedelta(seconds=41)) == "2026-03-02 09:14:03Z (41 s ago)"


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (3_100_000, "3.1 MB"),
    ]
    + [(2 * 10**12, "2.0 TB"), (4 * 10**18, "4000.0 PB")],
)
def test_sizes_are_in_decimal_units(octets: int, words: str) -> None:
    assert words_of.size(octets) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.04, "0.0 s"), (9.96, "10 s"), (61, "1 min 1 s"), (7265, "2 h 1 min")]
)
def test_durations_are_told_in_words(seconds: float, words: str) -> None:
    assert words_of.lasted(seconds) == words


def test_snapshot_numbers_in_a_row_are_drawn_together() -> None:
    assert render.numbers([1, 4, 5, 6, 9]) == "#1, #4 to #6, #9"
    assert render.numbers([]) == ""


def test_a_backup_reads_as_one_line() -> None:
    assert render.backup(Synced(REPO, SNAPSHOT, new=True), 0.3, EYE) == (
        "acme/api  saved as #12 of 2026-03-02 09:14:03Z (41 s ago)  3 changes  3.1 MB new  48 refs  in 0.3 s"
    )
    assert render.backup(Synced(REPO, SNAPSHOT, new=False), 0.1, EYE) == (
        "acme/api  nothing new since #12 of 2026-03-02 09:14:03Z (41 s ago)  48 refs  in 0.1 s"
    )


def test_what_is_kept_reads_as_a_table_that_names_failures() -> None:
    good = Overview(REPO, "everref", 12, 48, 3_100_000, NOW - timedelta(seconds=41), "protected", None)
    failure = Failure("network", "git.example.org cannot be reached from here", NOW, NOW)
    never = Overview(replace(REPO, name="acme/new"), "everref", 0, 0, 0, None, "never", failure)
    behind = replace(good, repo=replace(REPO, name="b"), snapshots=1, refs=1, state="behind")
    assert render.kept([good, never, behind], EYE).splitlines() == [
        "acme/api  protected as of 41 s ago  12 snapshots  48 refs  3.1 MB",
        "acme/new  never protected           0 snapshots   0 refs   0 B  "
        "network: git.example.org cannot be reached from here",
        "b         protected as of 41 s ago  1 snapshot    1 ref    3.1 MB  a sync is due",
    ]


def test_a_ref_change_is_one_line_that_can_be_searched() -> None:
    change = RefChange(MAIN, OID, OTHER, Kind.FORCED, by="alice")
    assert render.change(Logged(12, SNAPSHOT.taken_at, change), EYE, is_dropped=True).endswith("  (dropped)")
    assert render.change(Logged(12, SNAPSHOT.taken_at, change), EYE) == (
        "#12   2026-03-02 09:14:03Z (41 s ago)  forced          refs/heads/main  "
        "1234567890 -> abcdef0123  by alice"
    )


def test_what_a_terminal_would_act_on_is_never_shown() -> None:
    name = RefName("refs/heads/\x9b31m\u202eevil".encode() + b"\xff")
    assert "\x9b" not in render.ref(name, OID, EYE)
    assert "\u202e" not in render.ref(name, OID, EYE)
    assert render.failure("server says \x1b[2Jboo", render.plain) == "everref: server says \ufffd[2Jboo"
    assert to_json({"name": "a\x9bb\u202e\udcff é 🚀"}) == '{"name": "a\\u009bb\\u202e\\udcff é 🚀"}'


def test_colours_go_round_meanings_only() -> None:
    line = render.moved(RefChange(MAIN, OID, None, Kind.DELETED), Eye(NOW, paint))
    assert line == "  \x1b[31mdeleted       \x1b[0m  refs/heads/main  \x1b[2m1234567890\x1b[0m"
    assert "\x1b[31m" not in render.moved(RefChange(MAIN, OID, OTHER, Kind.FAST_FORWARDED), Eye(NOW, paint))


def restored(*results: Result, verified: bool = True) -> Restored:
    refs = tuple(RefResult(RefName(b"refs/heads/%d" % n), OID, one, None) for n, one in enumerate(results))
    return Restored(REPO, SNAPSHOT, refs, verified)


@pytest.mark.parametrize(
    ("results", "code"),
    [
        (("created", "updated", "unchanged", "skipped"), 0),
        (("unchanged",), 0),
        (("skipped",), 0),
        ((), 0),
        (("created", "refused"), 4),
        (("updated", "refused"), 4),
        (("refused", "refused"), 1),
        (("refused", "unchanged", "skipped"), 1),
    ],
)
def test_the_exit_code_of_a_restore_tells_all_some_or_none(results: Sequence[Result], code: int) -> None:
    assert restore_code(restored(*results)) == code


def test_a_restore_that_does_not_read_back_equal_has_failed() -> None:
    assert restore_code(restored("created", verified=False)) == 1


def test_a_restore_shows_each_ref_that_is_worth_a_look_and_the_sum() -> None:
    done = restored("created", "refused", "skipped")
    done = replace(done, refs=(*done.refs[:1], replace(done.refs[1], why="protected branch"), *done.refs[2:]))
    assert render.restored(done, "out.git", EYE).splitlines() == [
        "  refused    1234567890  refs/heads/1  protected branch",
        "  skipped    1234567890  refs/heads/2",
        "acme/api  #12 of 2026-03-02 09:14:03Z (41 s ago)  to out.git  "
        "1 created, 1 refused, 1 skipped  verified",
    ]


def test_a_verification_names_problems_strays_and_the_snapshots_that_are_lost() -> None:
    found = Verified(REPO, 12, 3, 5000, ("x: expected sha256 aa, found bb",), ("7/bundles/y.bundle",), (3, 4))
    text = render.verified(found, 1.0, EYE)
    assert text.splitlines() == [
        "  x: expected sha256 aa, found bb",
        "  stray  7/bundles/y.bundle; everref prune deletes it",
        "  #3 to #4 cannot be restored whole",
        "acme/api  1 problem  12 snapshots  3 parts  5.0 kB read back in 1.0 s",
    ]
    assert shapes.verified(found, 1.0)["ok"] is False


def test_other_results_read_as_lines_too() -> None:
    assert render.pruned(Pruned(("k",), 2000, 1), EYE).splitlines() == [
        "  deleted  k",
        "1 object deleted  2.0 kB  1 object within the grace period",
    ]
    swept = Swept(REPO, None, NetworkError("nobody answers", origin=Origin.SOURCE))
    assert render.swept(swept, EYE) == "acme/api  failed  network: nobody answers"
    assert shapes.swept(swept)["error"] == {
        "class": "network",
        "origin": "source",
        "message": "nobody answers",
        "retry": True,
    }
    assert render.findings(
        [Finding("git", "2.39", True), Finding("keys", "none", False, "set them")], EYE
    ) == ("ok  git   2.39\n!!  keys  none\n    set them")


# What programs read.


def test_the_json_of_a_backup_has_the_settled_keys() -> None:
    settled = {
        "repo": "acme/api",
        "snapshot": 12,
        "taken_at": "2026-03-02T09:14:03.000000Z",
        "refs": 48,
        "changes": 3,
        "head": "ref: refs/heads/main",
        "bundle": {"key": PART.key, "bytes": PART.bytes, "sha256": PART.sha256},
        "new": True,
        "seconds": 0.313,
    }
    shape = shapes.backup(Synced(REPO, SNAPSHOT, new=True), 0.31337)
    assert {key: shape[key] for key in settled} == settled


def test_the_json_of_a_backup_with_nothing_new_has_no_change_and_no_bundle() -> None:
    shape = shapes.backup(Synced(REPO, replace(SNAPSHOT, head=None), new=False), 0.1)
    assert (shape["changes"], shape["bundle"], shape["new"], shape["head"]) == (0, None, False, None)


def test_a_name_that_is_no_utf8_has_its_bytes_beside_it() -> None:
    assert shapes.ref(RefName(b"refs/heads/\xff"), OID) == {
        "name": "refs/heads/\ufffd",
        "name_b64": "cmVmcy9oZWFkcy//",
        "target": OID.decode(),
    }


def test_the_json_of_a_ref_change_has_the_settled_keys() -> None:
    at = NOW - timedelta(days=1)
    created = RefChange(MAIN, None, OID, Kind.CREATED, at=at)
    assert shapes.change(Logged(1, NOW, created), is_dropped=True)["dropped"] is True
    assert shapes.change(Logged(1, NOW, created)) == {
        "snapshot": 1,
        "at": "2026-03-01T09:14:44.000000Z",
        "name": "refs/heads/main",
        "old": None,
        "new": OID.decode(),
        "kind": "created",
        "by": None,
    }


# What can be said.


@pytest.mark.parametrize(
    "words",
    [["--json", "repos", "-q"], ["repos", "--json", "--quiet"], ["-q", "repos", "--json", "--data", "d"]],
)
def test_what_every_command_takes_may_stand_before_or_after_it(words: list[str]) -> None:
    args = arguments.parse(words)
    assert args.json is True
    assert args.quiet is True
    assert args.command == "repos"


def test_an_option_before_the_command_is_not_forgotten_by_the_command() -> None:
    assert arguments.parse(["--data", "there", "repos"]).data == "there"
    assert arguments.parse(["--data", "there", "repos", "--data", "here"]).data == "here"
    assert arguments.parse(["repos"]).data is None


def test_every_command_of_the_grammar_can_be_run() -> None:
    [commands] = [a for a in arguments.parser()._actions if isinstance(a, argparse._SubParsersAction)]
    assert set(commands.choices) - {"completion"} == set(COMMANDS)
    assert all(inspect.iscoroutinefunction(command(name)) for name in COMMANDS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say which command"),
        (["baackup"], "did you mean backup?"),
        (["restore", "x"], "one of the arguments --bundle --to --into --dir is required"),
        (["restore", "x", "--to", "y", "--dir", "z"], "not allowed with"),
        (["restore", "x", "--dir", "z", "--force"], "--force is for --to, --into and --bundle"),
        (["restore", "x", "--dir", "z", "--hidden-refs", "archive"], "--hidden-refs is for --to"),
        (["restore", "x", "--bundle", "z", "--token-file", "f"], "--token-file is for --to"),
        (["restore", "x", "--bundle", ""], "bundle must not be empty"),
        (["refs", "x", "--at"], "write '#12'"),
        (["up", "--port", "70000"], "from 1 to 65535"),
        (["log", "a", "b"], "one argument too many"),
        (["completion", "fish"], "invalid choice"),
    ],
)
def test_a_wrong_word_is_a_usage_error_that_says_what_to_do(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        arguments.parse(words)


@pytest.mark.parametrize(
    "words",
    [["backup", "u", "--token=hunter2"], ["backup", "u", "--token", "hunter2"], ["https://u:hunter2@h/x"]]
    + [["backup", "u", "hunter2"], ["hunter2"]],
)
def test_a_usage_error_repeats_no_word_that_may_be_a_secret(words: list[str]) -> None:
    redact = Redactor()
    redact.learn({}, words)
    with pytest.raises(UsageError) as raised:
        arguments.parse(words)
    if words != ["hunter2"]:  # a single plain word is a command that was mistyped
        assert "hunter2" not in redact(str(raised.value))


# What is found round the command.


def test_the_data_is_where_the_xdg_specification_puts_it() -> None:
    assert environment.default_data({"XDG_DATA_HOME": "/x"}) == "/x/everref"
    assert environment.default_data({"XDG_DATA_HOME": "x"}).endswith("/.local/share/everref")


def test_the_option_goes_before_the_environment() -> None:
    env = {"EVERREF_DATA": "/from/env", "EVERREF_DATA_FILE": "/nowhere"}
    assert environment.settings(env, "/from/option").data == "/from/option"
    assert environment.settings({"EVERREF_DATA": "/from/env"}, None).data == "/from/env"


@pytest.mark.parametrize(
    ("env", "is_terminal", "colour"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm"}, False, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, True, False),
        ({}, True, False),
    ],
)
def test_colour_respects_what_the_person_asked_for(
    env: dict[str, str], is_terminal: bool, colour: bool
) -> None:
    assert environment.has_colour(env, is_terminal) is colour


def test_a_token_file_holds_one_token(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(b"  ghp_abc\n")
    assert environment.read_token(str(file)) == "ghp_abc"
    for content in (b"", b"\n", b"a b", b"a\nb", b"\xff", b"a\x1b", b"x" * 100_000):
        file.write_bytes(content)
        with pytest.raises(UsageError, match="--token-file"):
            environment.read_token(str(file))
    with pytest.raises(UsageError, match="cannot be read"):
        environment.read_token(str(tmp_path / "none"))


def test_no_secret_of_the_call_passes_the_last_look() -> None:
    redact = Redactor()
    redact.learn(
        {"DATABASE_URL": "postgresql://u:dbpass@h/d", "SECRET_KEYS": "keyone-xxxx, keytwo-xxxx"},
        ["backup", "https://alice:p%40ss/word@h/x", "https://onlytoken@h/y"],
    )
    redact.add("ghp_token")
    said = "dbpass keyone-xxxx keytwo-xxxx p%40ss/word p@ss/word ghp_token onlytoken https://bob:pw@h/z"
    assert redact(said) == "*** *** *** *** *** *** *** https://***@h/z"


def test_any_failure_becomes_one_of_ours_without_what_a_library_said() -> None:
    try:
        json.loads('{"password": hunter2')
    except ValueError as error:
        ours = front.explained(error)
    assert isinstance(ours, OurFault)
    assert "JSONDecodeError" in str(ours)
    assert "hunter2" not in str(ours)
    group = ExceptionGroup("several", [KeyError("a"), ExceptionGroup("more", [Busy("somebody is at it")])])
    assert str(front.explained(group)) == "somebody is at it"
    assert isinstance(front.explained(MemoryError()), LimitReached)
    assert isinstance(front.explained(OSError(28, "No space left on device", "/x")), LimitReached)
    assert isinstance(front.explained(PermissionError(13, "Permission denied", "/x")), Refused)


# Progress.


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_progress_says_the_phase_how_much_and_how_fast() -> None:
    assert render.progress("fetching", 0, None, "", 0.1) == "fetching ..."
    assert render.progress("checking", 0, None, "", 12.2) == "checking ... 12 s"
    assert render.progress("fetching", 12_300_000, None, "bytes", 2.0) == "fetching  12.3 MB  6.2 MB/s"
    assert render.progress("reading", 500, 2000, "bytes", 0.1) == "reading  500 B of 2.0 kB  25%"
    assert render.progress("reading", 5, 2000, "manifests", 1) == "reading  5 of 2,000 manifests  0%  5/s"


def test_progress_is_drawn_ten_times_a_second_at_most_and_cleared() -> None:
    screen, clock = io.StringIO(), Clock()
    drawn = Drawn(screen, clock, lambda: 20)
    drawn.phase("reading", 2000, "bytes")
    for _ in range(100):
        clock.now += 0.01
        drawn.advance(10)
    assert screen.getvalue().count("\r\x1b[K") <= 11
    assert all(len(line) < 20 for line in screen.getvalue().split("\r\x1b[K"))
    drawn.note("waiting")
    drawn.clear()
    assert screen.getvalue().endswith("\r\x1b[Kwaiting\n")


async def test_a_phase_that_tells_nothing_is_drawn_all_the_same() -> None:
    screen, clock = io.StringIO(), Clock()
    drawn = Drawn(screen, clock, lambda: 80)
    drawn.phase("first")
    drawn.phase("second")
    assert "second" not in screen.getvalue()  # it came too soon after the other
    clock.now += 1
    drawn.draw()
    assert screen.getvalue().endswith("second ...")


def test_a_result_clears_the_progress_before_it() -> None:
    screen = io.StringIO()
    out = Out(lambda text: None, lambda: NOW, as_json=False, quiet=False, colour=False)
    drawn = out.progress = Drawn(screen, Clock(), lambda: 80)
    drawn.phase("fetching")
    out.result(lambda eye: "done", dict)
    assert screen.getvalue() == "\r\x1b[Kfetching ...\r\x1b[K"


# The command as a process.


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        """The JSON objects that it printed."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def one(self) -> Any:
        [found] = self.lines
        return found

    @property
    def error(self) -> dict[str, Any]:
        """The JSON error that it told, on the one line of standard error."""
        [line] = self.err.splitlines()
        found = json.loads(line)
        assert set(found) == {"error"}
        assert set(found["error"]) == {"class", "origin", "message", "retry"}
        return dict(found["error"])


COMMAND = (sys.executable, "-m", "mirror.cli")


@dataclass(frozen=True)
class Everref:
    """The command, over a database and data of its own."""

    env: dict[str, str]
    place: Path  # where it is called

    def __call__(self, *words: str, stdin: str = "", code: int | None = 0, **env: str) -> Ran:
        done = forked.run("mirror.cli", words, env=self.env | env, cwd=self.place, stdin=stdin)
        assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return Ran(done.returncode, done.stdout, done.stderr)

    def json(self, *words: str, code: int = 0, **env: str) -> Ran:
        return self(*words, "--json", code=code, **env)

    def started(self, *words: str, **streams: Any) -> "subprocess.Popen[str]":
        options: dict[str, Any] = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
        } | streams
        return subprocess.Popen([*COMMAND, *words], env=self.env, cwd=self.place, **options)


def surroundings(tmp_path: Path) -> dict[str, str]:
    """What every shell has, what coverage needs to look inside, and where the code is if it is told."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(("COVERAGE_", "PYTHONPATH"))}
    return kept | {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), "LANG": "C.UTF-8"}


@pytest.fixture
def everref(tmp_path: Path, database: str) -> Everref:
    place = tmp_path / "place"
    place.mkdir()
    settings = {
        "DATABASE_URL": database,
        "EVERREF_DATA": str(tmp_path / "data"),
        "SECRET_KEYS": "k" * 40,
        "ALLOW_PRIVATE_REMOTES": "yes",
    }
    return Everref(surroundings(tmp_path) | settings, place)


@pytest.fixture
def bare(tmp_path: Path) -> Everref:
    """The command where nothing is set; for what needs no data."""
    return Everref(surroundings(tmp_path), tmp_path)


def test_help_and_version_are_quick_because_nothing_heavy_is_imported(bare: Everref) -> None:
    for word in ("--help", "--version"):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "mirror.cli", word],
            env=bare.env,
            capture_output=True,
            text=True,
            check=True,
        )
        loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert not loaded & {
            "asyncio",
            "asyncpg",
            "aiohttp",
            "pygit2",
            "dulwich",
            "mirror.core.config",
            "shtab",
            "json",
        }


def test_every_command_explains_itself(bare: Everref) -> None:
    text = bare("--help").out
    for name in COMMANDS:
        assert re.search(rf"^    {name}  ", text, re.MULTILINE), name
    assert '--json: {"repo", "snapshot"' in bare("backup", "--help").out


def test_a_mistake_is_one_line_or_one_object_and_exit_code_2(bare: Everref) -> None:
    said = bare("restore", "acme/api", code=2)
    assert said.out == ""
    assert said.err == (
        "everref: one of the arguments --bundle --to --into --dir is required; see everref restore --help\n"
    )
    assert bare("--json", "restore", "acme/api", code=2).error == {
        "class": "usage",
        "origin": "ours",
        "message": "one of the arguments --bundle --to --into --dir is required; see everref restore --help",
        "retry": False,
    }


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"DATABASE_URL": "mysql://u:hunter2@h/d"}, "DATABASE_URL must begin with postgresql://"),
        ({"PORT": "x"}, "PORT must be a number from 1 to 65535, not 'x'"),
        ({"SECRET_KEYS": "hunter2"}, "SECRET_KEYS: every key must have 32 characters or more"),
    ],
)
def test_a_wrong_setting_is_one_line(bare: Everref, env: dict[str, str], message: str) -> None:
    assert bare("repos", code=2, **env).err == f"everref: {message}\n"


def test_a_wrong_moment_or_address_is_told_before_anything_is_started(bare: Everref, tmp_path: Path) -> None:
    assert "is not a moment" in bare.json("refs", "x", "--at", "yesteryear", code=2).error["message"]
    refused = bare.json("backup", "ssh://git:pw@github.com/acme/api", code=2)
    assert "cannot hold a password" in refused.error["message"]
    assert bare.json("backup", str(tmp_path / "none"), code=3).error["class"] == "not-found"
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_completion_script_knows_the_commands_and_options(bare: Everref, shell: str) -> None:
    script = bare("completion", shell).out
    assert "everref" in script.splitlines()[0] + script
    for word in ("restore", "bundle", "hidden-refs", "archive"):
        assert word in script


def test_bash_completes_with_the_script(bare: Everref) -> None:
    script = bare("completion", "bash").out
    ask = 'COMP_WORDS=(everref re); COMP_CWORD=1; COMP_LINE="everref re"; COMP_POINT=10; '
    ask += "_shtab_everref everref re everref; printf '%s\\n' \"${COMPREPLY[@]}\""
    done = subprocess.run(
        ["bash", "-c", script + ask], capture_output=True, text=True, check=True, env=bare.env
    )
    assert set(done.stdout.split()) == {name for name in COMMANDS if name.startswith("re")} > {"restore"}


def test_a_webhook_is_made_shown_without_its_secret_changed_and_removed(everref: Everref, work: Work) -> None:
    work.commit("main")
    everref("backup", str(work.path), "--name", "garden", "-q")
    assert "--forge" in everref.json("hook", "garden", code=2).error["message"]
    made = everref.json("hook", "garden", "--forge", "gitea", BASE_URL="https://everref.example/").one
    assert set(made) >= {"repo", "forge", "url", "secret"}
    assert made["url"].startswith("https://everref.example/hooks/gitea/")
    shown = everref("hook", "garden").out
    assert made["url"].rpartition("/")[2] in shown and made["secret"] not in shown
    assert "set BASE_URL" in shown
    assert everref.json("hook", "garden").one["secret"] is None
    other = everref.json("hook", "garden", "--new").one["secret"]
    assert other and other != made["secret"]
    assert other not in everref("hook", "garden", "--new", "-q").out.split()
    assert everref.json("hook", "garden", "--remove").one == {"repo": "garden", "removed": True}
    assert everref.json("hook", "garden", "--remove", code=3).error["class"] == "not-found"


def test_a_backup_and_its_history_can_be_read_by_programs(everref: Everref, git_server: GitServer) -> None:
    work = Work(git_server.root / "acme" / "api.git")
    first = work.commit("main")
    work.commit("side")
    url = f"{git_server.url}/acme/api.git"

    saved = everref.json("backup", url).one
    assert set(saved) >= {
        *("repo", "snapshot", "taken_at", "refs", "changes", "head", "bundle", "new", "seconds")
    }
    assert saved["repo"] == "acme/api"
    assert (saved["snapshot"], saved["refs"], saved["changes"], saved["new"]) == (1, 2, 3, True)
    assert saved["head"] == "ref: refs/heads/main"
    stored = Path(everref.env["EVERREF_DATA"]) / "vault" / saved["bundle"]["key"]
    assert stored.stat().st_size == saved["bundle"]["bytes"]

    again = everref.json("backup", url).one
    assert (again["snapshot"], again["changes"], again["bundle"], again["new"]) == (1, 0, None, False)
    assert again["taken_at"] == saved["taken_at"]

    work.delete("side")
    work.set("main", work.commit_object(work.tree({}), [], "another root"))
    second = everref.json("backup", url).one
    assert (second["snapshot"], second["changes"]) == (2, 2)

    log = everref.json("log", "acme/api").lines
    assert [line["snapshot"] for line in log] == [2, 2, 1, 1, 1]
    assert {line["name"]: line["kind"] for line in log[:2]} == {
        "refs/heads/main": "forced",
        "refs/heads/side": "deleted",
    }
    assert everref.json("log", "acme/api", "--reverse").lines == log[::-1]
    [forced] = everref.json("log", "acme/api", "--forced").lines
    assert (forced["old"], forced["new"]) == (first.decode(), work.tip("main").decode())
    assert [line["new"] for line in everref.json("log", "acme/api", "--ref", "side").lines][0] is None
    assert len(everref.json("log", "acme/api", "--since", "#2").lines) == 2
    assert len(everref.json("log", "acme/api", "--since", second["taken_at"]).lines) == 2
    assert everref.json("log", "acme/api", "--since", "#3", code=3).error["class"] == "not-found"

    then = everref.json("refs", "acme/api", "--at", "#1").lines
    assert then[0] == {"name": "HEAD", "target": "ref: refs/heads/main"}
    assert {"name": "refs/heads/main", "target": first.decode()} in then
    assert everref.json("refs", "acme/api", "--at", saved["taken_at"]).lines == then
    assert len(everref.json("refs", "acme/api").lines) == 2
    [gone] = everref.json("refs", "acme/api", "--gone").lines
    assert (gone["name"], gone["gone"]["last"]) == ("refs/heads/side", 1)
    assert everref.json("refs", "acme/api", "--gone", "--at", "#1").lines == []

    [kept] = everref.json("repos").lines
    known = {"repo", "url", "snapshots", "refs", "bytes", "protected_as_of", "state"}
    assert set(kept) >= known | {"team", "behind_since", "damage", "failure", "large_files_not_saved"}
    assert (kept["repo"], kept["url"], kept["snapshots"], kept["refs"]) == ("acme/api", url, 2, 1)
    assert kept["state"] == "protected"


def test_a_moment_comes_back_in_every_form(everref: Everref, work: Work, tmp_path: Path) -> None:
    work.zoo()
    then = work.refs()
    everref("backup", str(work.path), "--name", "zoo")
    work.delete("main")
    everref("backup", str(work.path))

    planned = everref.json("plan", "zoo", "--at", "#1").one
    assert (planned["repo"], planned["snapshot"], planned["to"]) == ("zoo", 1, None)
    assert planned["steps"]

    done = everref.json("restore", "zoo", "--at", "#1", "--bundle", "zoo.bundle").one
    of_push = {"counts", "refs_total", "skipped", "said", "kept", "kept_snapshot", "job", "undo_of"}
    assert set(done) == {"repo", "snapshot", "refs", "verified"} | of_push
    assert done["verified"] is True
    assert {ref["result"] for ref in done["refs"]} == {"created"}
    run_git("bundle", "verify", everref.place / "zoo.bundle", cwd=work.path)
    assert everref.json("restore", "zoo", "--bundle", "zoo.bundle", code=2).error["class"] == "usage"
    everref("restore", "zoo", "--at", "#1", "--bundle", "zoo.bundle", "--force")

    everref("restore", "zoo", "--at", "#1", "--dir", "zoo.git")
    assert refs_of(everref.place / "zoo.git") == then

    target = Work(tmp_path / "target.git")
    pushed = everref.json("restore", "zoo", "--at", "#1", "--to", str(target.path), "--refs", "main").one
    assert [ref["name"] for ref in pushed["refs"] if ref["result"] == "created"] == ["refs/heads/main"]
    assert refs_of(target.path)[MAIN] == then[MAIN]


def test_a_restore_that_would_overwrite_pushes_nothing_and_fails(
    everref: Everref, work: Work, tmp_path: Path
) -> None:
    work.commit("main")
    everref("backup", str(work.path), "--name", "r")
    target = Work(tmp_path / "target.git")
    theirs = target.commit("main", message="theirs")
    planned = everref.json("plan", "r", "--to", str(target.path)).one
    assert [ref["result"] for ref in planned["refs"] if ref["name"] == "refs/heads/main"] == ["refused"]
    failed = everref.json("restore", "r", "--to", str(target.path), code=1)
    assert failed.error["class"] == "refused"
    assert [ref["result"] for ref in failed.one["refs"] if ref["name"] == "refs/heads/main"] == ["refused"]
    assert refs_of(target.path)[MAIN] == theirs
    told = everref("restore", "r", "--to", str(target.path), "--force").out
    assert refs_of(target.path)[MAIN] == work.tip("main")
    assert "  everref undo r puts back what was overwritten, backed up as target #1" in told
    assert everref.json("undo", "r", "--plan").one["refs"][0]["result"] == "updated"
    undone = everref.json("undo", "r").one
    assert undone["counts"] == {"updated": 1} and undone["undo_of"]
    assert refs_of(target.path)[MAIN] == theirs
    assert "no restore of r to a remote is left to undo" in everref("undo", "r", code=3).err


def test_a_target_that_refuses_one_ref_leaves_exit_code_4(
    everref: Everref, work: Work, tmp_path: Path
) -> None:
    work.commit("main")
    work.commit("locked")
    everref("backup", str(work.path), "--name", "r")
    target = Work(tmp_path / "target.git")
    hook = target.path / "hooks" / "update"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text('#!/bin/sh\n[ "$1" != refs/heads/locked ]\n')
    hook.chmod(0o755)
    done = everref.json("restore", "r", "--to", str(target.path), code=4).one
    assert {ref["name"]: ref["result"] for ref in done["refs"] if ref["name"] != "HEAD"} == {
        "refs/heads/locked": "refused",
        "refs/heads/main": "created",
    }


def test_a_backup_is_proved_compacted_pruned_and_read_back(everref: Everref, work: Work) -> None:
    for _ in range(3):
        work.commit("main")
        everref("backup", str(work.path), "--name", "r")
    found = everref.json("verify", "r").one
    assert (found["repo"], found["ok"], found["problems"], found["damaged"]) == ("r", True, [], [])
    assert found["snapshots"] == 3
    assert everref.json("drill", "r", "--at", "#2").one["ok"] is True
    assert everref.json("compact").one["repo"] == "r"
    assert everref.json("compact", "r").one["repo"] == "r"
    assert everref.json("prune", "--grace", "0s").one["waiting"] == 0
    assert everref.json("prune", "none", code=3).error["class"] == "not-found"
    assert everref.json("prune", "--grace", "soon", code=2).error["class"] == "usage"
    assert everref.json("rebuild").one == {"repo": "r", "snapshots": 3, "added": 0, "notes": 0, "was": None}
    assert everref.json("migrate").one == {"applied": []}
    swept = everref.json("sweep").one
    assert (swept["repo"], swept["snapshot"], swept["new"], swept["error"]) == ("r", 3, False, None)
    findings = everref.json("doctor").lines
    assert {"git", "database", "vault"} <= {one["what"] for one in findings}
    for words in (
        ("verify", "r"),
        ("drill", "r"),
        ("compact",),
        ("prune",),
        ("rebuild",),
        ("sweep",),
        ("doctor",),
    ):
        assert everref(*words).err == ""


def test_damage_in_the_vault_is_named_and_is_a_failure(everref: Everref, work: Work) -> None:
    work.commit("main")
    saved = everref.json("backup", str(work.path), "--name", "r").one
    stored = Path(everref.env["EVERREF_DATA"]) / "vault" / saved["bundle"]["key"]
    data = bytearray(stored.read_bytes())
    data[-30] ^= 1
    stored.chmod(0o600)
    stored.write_bytes(data)
    failed = everref.json("verify", "r", code=1)
    assert failed.error["class"] == "corrupt"
    assert failed.one["ok"] is False
    assert failed.one["damaged"] == [1]
    assert saved["bundle"]["key"] in " ".join(failed.one["problems"])
    (kept,) = everref.json("repos").lines
    assert kept["state"] == "damaged" and saved["bundle"]["key"] in kept["damage"]["message"]
    shown = everref("repos").out
    assert "r  damaged, found " in shown and "then run everref verify r" in shown and "protected" not in shown
    bad = [one for one in everref.json("doctor", code=1).lines if not one["ok"]]
    assert [one["what"] for one in bad] == ["repos", "damage"]
    assert "1 repo, 0 protected, 1 damaged" in bad[0]["value"] and saved["bundle"]["key"] in bad[1]["value"]
    assert bad[1]["advice"].endswith("then run everref verify r")
    again = everref("backup", str(work.path), code=1)
    assert "nothing new since #1" in again.out
    assert "its backup is damaged, found" in again.err and again.err.endswith(" verify r\n")
    assert everref.json("backup", str(work.path), code=1).error["class"] == "corrupt"
    data[-30] ^= 1
    stored.write_bytes(data)
    everref("verify", "r")
    assert everref.json("repos").lines[0]["state"] == "protected"
    assert everref.json("doctor").lines and everref.json("backup", str(work.path)).one["new"] is False


def test_one_repo_that_cannot_be_swept_stops_no_other(
    everref: Everref, work: Work, make_work: Callable[..., Work]
) -> None:
    gone = make_work("gone.git")
    gone.commit("main")
    work.commit("main")
    everref("backup", str(gone.path), "--name", "a")
    everref("backup", str(work.path), "--name", "b")
    gone.path.rename(gone.path.with_name("moved.git"))
    work.commit("main")
    bad, good = everref.json("sweep", code=4).lines
    assert bad["repo"] == "a"
    assert bad["error"]["class"] in ("gone", "not-found")
    assert (good["repo"], good["snapshot"], good["new"]) == ("b", 2, True)
    assert everref("sweep", "-q", code=4).out.startswith("a  failed  ")
    assert everref.json("repos").lines[0]["state"] == "failing"


def test_a_repo_whose_first_backup_failed_is_listed_as_never_protected(
    everref: Everref, git_server: GitServer
) -> None:
    git_server.faults["info/refs"] = Fault(status=500)
    failed = everref.json("backup", f"{git_server.url}/acme/api.git", code=1)
    assert (failed.error["class"], failed.error["retry"]) == ("network", True)
    [kept] = everref.json("repos").lines
    assert (kept["repo"], kept["snapshots"], kept["protected_as_of"], kept["state"]) == (
        "acme/api",
        0,
        None,
        "never",
    )
    assert "never protected" in everref("repos").out
    assert everref.json("refs", "acme/api", code=3).error["class"] == "not-found"


def test_a_token_comes_from_a_file_and_is_kept_but_never_shown(
    everref: Everref, tmp_path: Path, database: str
) -> None:
    server = GitServer(tmp_path, credentials=("oauth2", "s3cret-token"))
    try:
        work = Work(tmp_path / "private.git")
        work.commit("main")
        url = f"{server.url}/private.git"
        for said in (
            everref.json("backup", url, code=1),
            everref.json("backup", url.replace("://", "://bob:wr0ng-pass@"), code=1),
        ):
            assert said.error["class"] == "credentials"
            assert "wr0ng-pass" not in said.out + said.err
        told = everref("backup", url, "--token-file", "-", stdin="s3cret-token\n")
        again = everref("backup", url)  # the token was kept
        with_both = url.replace("://", "://bob:wr0ng-pass@")
        both = everref.json("backup", with_both, "--token-file", "/dev/null", code=2)
        assert both.error["class"] == "usage"
        for said in (told, again, both):
            assert "s3cret-token" not in said.out + said.err
            assert "wr0ng-pass" not in said.out + said.err
        assert everref.json("repos").one["url"] == url
    finally:
        server.stop()


def test_people_read_dense_lines_and_nothing_where_they_asked_for_quiet(everref: Everref, work: Work) -> None:
    work.commit("main")
    first = everref("backup", str(work.path), "--name", "r")
    assert re.fullmatch(
        r"r  saved as #1 of \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ \(.*\)  2 changes  .* new  1 ref  in .*\n",
        first.out,
    )
    work.delete("main")
    work.commit("other")
    second = everref("backup", str(work.path)).out.splitlines()
    assert second[0].startswith("r  saved as #2 of ")
    assert sorted(line.split()[0] for line in second[1:]) == ["created", "deleted"]
    assert everref("backup", str(work.path), "-q") == Ran(0, "", "")
    assert everref("repos", "-q").out.startswith("r  protected as of ")
    assert everref("refs", "r").out.splitlines()[0] == "ref: refs/heads/main	HEAD"


def test_names_that_are_no_text_come_through(everref: Everref, work: Work) -> None:
    work.commit("main")
    work.odd_names()
    everref("backup", str(work.path), "--name", "odd")
    shown = everref.json("refs", "odd", LANG="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0").lines
    assert len(shown) == len(work.refs())
    assert any("name_b64" in ref for ref in shown)
    assert everref("refs", "odd", LANG="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0").err == ""


def test_a_reader_that_has_enough_is_no_failure(everref: Everref, work: Work) -> None:
    work.commit("main")
    work.many_refs(3000)
    everref("backup", str(work.path), "--name", "many")
    for words in (("log", "many"), ("refs", "many", "--json")):
        with everref.started(*words) as running:
            assert running.stdout is not None
            assert running.stderr is not None
            assert running.stdout.readline()
            running.stdout.close()
            assert running.stderr.read() == ""
        assert running.returncode == front.PIPE_CLOSED


def test_a_full_or_closed_standard_output_is_told(everref: Everref) -> None:
    with open("/dev/full", "w") as full, everref.started("migrate", stdout=full) as running:
        assert running.stderr is not None
        assert running.stderr.read() == (
            "everref: standard output cannot be written: No space left on device\n"
        )
    assert running.returncode == 1
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, "migrate"]
    assert subprocess.run(closed, env=everref.env, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 129, "terminated"),
    ],
)
def test_an_interrupted_command_says_so_in_one_line_and_breaks_nothing(
    everref: Everref, git_server: GitServer, work: Work, number: signal.Signals, code: int, word: str
) -> None:
    work.commit("main")
    url = f"{git_server.url}/remote.git"
    git_server.faults["git-upload-pack"] = Fault(hang_after=100)
    with everref.started("backup", url) as running:
        git_server.wait_for("git-upload-pack")
        running.send_signal(number)
        out, err = running.communicate()
    assert (running.returncode, out, err) == (code, "", f"everref: {word}\n")
    git_server.faults.clear()
    assert everref.json("backup", url).one["new"] is True
    assert everref.json("verify", "remote").one["ok"] is True


def test_a_bug_is_one_line_and_shows_more_only_when_asked(everref: Everref, work: Work) -> None:
    broken = "import sys; from mirror.restore import moment; "
    broken += "moment.repo_named = lambda *_: {}['k3y-s3cret']; from mirror.cli import main; sys.exit(main())"

    def call(**env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", broken, "verify", "x"],
            env=everref.env | env,
            capture_output=True,
            text=True,
        )

    plain = call()
    assert plain.returncode == 1
    assert re.fullmatch(r"everref: a bug: KeyError in .*; EVERREF_DEBUG=1 shows more.*\n", plain.stderr)
    assert "s3cret" not in plain.stderr
    debug = call(EVERREF_DEBUG="1", AWS_SECRET_ACCESS_KEY="k3y-s3cret")
    assert "Traceback" in debug.stderr
    assert "s3cret" not in debug.stderr


def on_terminal(everref: Everref, *words: str, **env: str) -> tuple[int, str]:
    """Run a command on a terminal; its exit code and all that was drawn."""
    ours, theirs = pty.openpty()
    try:
        running = subprocess.Popen(
            [*COMMAND, *words],
            env=everref.env | {"TERM": "xterm"} | env,
            cwd=everref.place,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
    finally:
        os.close(theirs)
    return _drawn(running, ours)


def _drawn(running: "subprocess.Popen[bytes]", ours: int) -> tuple[int, str]:
    seen = b""
    try:
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # EIO: nobody has the other end any more
                break
            if not chunk:
                break
            seen += chunk
    finally:
        os.close(ours)
    return running.wait(), seen.decode()


def test_a_terminal_gets_progress_and_colour(everref: Everref, work: Work) -> None:
    work.commit("main")
    code, seen = on_terminal(everref, "backup", str(work.path), "--name", "r")
    assert code == 0
    assert "\r\x1b[K" in seen
    assert "refs ..." in seen
    last = seen.rpartition("\r\x1b[K")[2]
    assert last.startswith("\x1b[1mr\x1b[0m  \x1b[32msaved\x1b[0m as #1 of ")
    for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "\x1b[1m" not in on_terminal(everref, "repos", **env)[1]
    assert "\x1b" not in on_terminal(everref, "backup", str(work.path), "--json")[1]
    assert on_terminal(everref, "backup", str(work.path), "-q") == (0, "")


@pytest.fixture
def unset(tmp_path: Path) -> Iterator[Everref]:
    """The command on a machine where nothing is set but where the data are."""
    place = tmp_path / "place"
    place.mkdir()
    yield Everref(surroundings(tmp_path) | {"EVERREF_DATA": str(tmp_path / "data")}, place)


def test_with_nothing_installed_a_command_brings_its_own_database(unset: Everref, work: Work) -> None:
    work.commit("main")
    assert unset("repos").out == "nothing is backed up yet; everref backup URL adds a repository\n"
    assert unset.json("backup", str(work.path), "--name", "r").one["new"] is True
    assert unset.json("repos").one["state"] == "protected"
    assert (Path(unset.env["EVERREF_DATA"]) / "vault").is_dir()


# People, from the terminal of who owns the data.


async def test_a_token_is_told_once_and_works(everref: Everref, pool: asyncpg.Pool) -> None:
    made = everref.json("token", "ci", "--scope", "read", "--scope", "backup", "--expires", "90d").one
    assert set(made) >= {"name", "token", "team", "scopes", "expires_at"}
    assert (made["name"], made["team"], made["scopes"]) == ("ci", "everref", ["backup", "read"])
    found = await tokens.of(pool, made["token"], datetime.now(UTC))
    assert found and found.person == await people.first_owner(pool, NOW)
    said = everref("token", "another").out.splitlines()
    assert "may admin, backup, read, restore  never expires" in said[0]
    assert await tokens.of(pool, said[1].strip(), datetime.now(UTC))


async def test_what_is_done_by_the_command_line_is_in_the_audit_log(
    everref: Everref, pool: asyncpg.Pool, work: Work, tmp_path: Path
) -> None:
    work.commit("main")
    everref("backup", str(work.path), "--name", "r")
    everref("backup", str(work.path))  # which adds nothing
    everref("hook", "r", "--forge", "gitea")
    everref("hook", "r")  # which shows it
    everref("hook", "r", "--new")
    everref("hook", "r", "--remove")
    everref("restore", "r", "--dir", str(tmp_path / "r.git"))
    everref("restore", "r", "--to", str(work.path), "--force")
    found = [one.entry for one in reversed(await audit.page(pool, await teams.default(pool)))]
    assert [(one.action, one.subject) for one in found] == [
        ("repo.add", "r"),
        ("hook.add", "r"),
        ("hook.secret", "r"),
        ("hook.remove", "r"),
        ("restore.push", "r"),
    ]
    assert {(one.actor, one.person_id) for one in found} == {("whoever runs Everref", None)}
    assert dict(found[-1].detail) == {"to": str(work.path), "snapshot": 1, "overwrites": True}


async def test_a_token_is_for_a_team_of_the_first_owner(everref: Everref, pool: asyncpg.Pool) -> None:
    await people.add(pool, "Ann", NOW, team_name="ann")
    assert "no team ann" in everref("token", "ci", "--team", "ann", code=3).err
    assert "not a length of time" in everref("token", "ci", "--expires", "soon", code=2).err


async def test_a_link_signs_in_who_is_named(everref: Everref, pool: asyncpg.Pool) -> None:
    ann = await people.add(
        pool, "Ann", NOW, team_name="ann", email="ann@example.org", password_hash="forgotten"
    )
    said = everref.json("sign-in", "Ann@example.org", PORT="8123").one
    path, _, raw = said["sign_in"].rpartition("/")
    assert path == "http://127.0.0.1:8123/sign-in"
    assert await links.use(pool, raw, datetime.now(UTC)) == links.Used(ann.id)
    assert everref("sign-in", BASE_URL="https://e.example/").out.startswith("https://e.example/sign-in/")
    assert "nobody signs in" in everref("sign-in", "bob@example.org", code=3).err


async def test_a_link_by_an_e_mail_address_warns_of_who_that_is_first(
    everref: Everref, pool: asyncpg.Pool
) -> None:
    """Whoever signs up can say that any address is theirs: whose link it is must be read first."""
    boss = await people.add(
        pool, "The Boss", NOW, team_name="mallory", email="boss@example.org", password_hash="x"
    )
    await people.link(pool, boss.id, "github", "github.com", "7", "mallory-7", NOW)
    said = everref("sign-in", "boss@example.org", PORT="8123").out
    warned, link = said.split("http://127.0.0.1:8123/sign-in/")
    assert "nobody has proved that boss@example.org is theirs" in warned and link
    for words in ("The Boss", "2026-03-02", "mallory (owner)", "mallory-7 at github.com"):
        assert words in warned
    person = everref.json("sign-in", "boss@example.org", PORT="8123").one["person"]
    assert (person["name"], person["email_proved"]) == ("The Boss", False)
    assert [(one["name"], one["role"]) for one in person["teams"]] == [("mallory", "owner")]
    assert [(one["login"], one["host"]) for one in person["identities"]] == [("mallory-7", "github.com")]
    assert "proved" not in everref("sign-in", PORT="8123").out


async def test_keys_are_rotated_in_three_steps(everref: Everref, pool: asyncpg.Pool) -> None:
    repo = await repos.add(pool, await teams.default(pool), "acme/api", "https://e.example/a", NOW)
    secret = Secret("ann", "hush")
    await credentials.keep(pool, Keyring(["k" * 40]), repo.id, secret)
    missing = everref("rotate-keys", code=4, SECRET_KEYS="n" * 40).out
    assert "is not in SECRET_KEYS; add it at the end" in missing
    both = f"{'n' * 40},{'k' * 40}"
    assert "is no longer needed; remove it" in everref("rotate-keys", SECRET_KEYS=both).out
    done = everref.json("rotate-keys", SECRET_KEYS="n" * 40).one
    assert set(done) == {"resealed", "keys", "problems"}
    assert [(key["newest"], key["sealed"]) for key in done["keys"]] == [(True, 1)]
    assert await credentials.of(pool, Keyring(["n" * 40]), repo.id) == secret


def test_an_empty_database_over_a_full_vault_is_not_called_empty(
    everref: Everref, work: Work, empty_database: str
) -> None:
    work.commit("main")
    everref("backup", str(work.path), "--name", "r")
    told = everref("repos", DATABASE_URL=empty_database).out
    assert told == "the vault has 1 repo that this database does not know: run everref rebuild\n"
    everref("rebuild", DATABASE_URL=empty_database)
    assert everref("repos", DATABASE_URL=empty_database).out.startswith("r  protected")
    assert "does not know" not in everref("repos").out


def test_a_rebuild_that_could_not_open_the_state_is_done_in_part(
    everref: Everref, empty_database: str
) -> None:
    everref("sign-in", PORT="8123")
    everref("export")
    for _ in range(2):
        shut = everref("rebuild", code=4, SECRET_KEYS="n" * 40, DATABASE_URL=empty_database).out
        assert "people, teams and connections were not restored" in shut
    everref("rebuild", DATABASE_URL=empty_database)


# Teams.


async def test_a_repo_of_another_team_is_called_as_repos_shows_it(
    everref: Everref, pool: asyncpg.Pool, git_server: GitServer, work: Work
) -> None:
    work.commit("main")
    await people.add(pool, "Ann", NOW, team_name="acme")
    url = f"{git_server.url}/remote.git"
    everref("backup", url, "--name", "api")
    everref("backup", url, "--name", "api", "--team", "acme")
    shown = everref.json("repos").lines
    assert [(one["team"], one["repo"]) for one in shown] == [("acme", "acme:api"), ("everref", "api")]
    for one in shown:
        assert everref.json("refs", one["repo"]).lines[0]["name"] == "HEAD"
    assert [one["repo"] for one in everref.json("repos", "--team", "acme").lines] == ["acme:api"]
    assert everref.json("log", "api", "--team", "acme").lines == everref.json("log", "acme:api").lines
    everref("restore", "acme:api", "--dir", "back.git")
    assert "in the team acme" in everref("refs", "web", "--team", "acme", code=3).err
    assert "there is no team nobody" in everref("refs", "api", "--team", "nobody", code=3).err
    team = await teams.by_name(pool, "acme")
    assert team is not None
    everref("drill", "api", "--team", str(team.id))
    everref("prune", "--team", "acme")
    [swept] = everref.json("sweep", EVERREF_TEAM="acme").lines
    assert swept["new"] is False
    assert everref.json("limits", "--team", "acme").one["team"] == "acme"
    done = [one.entry.action for one in reversed(await audit.page(pool, team.id))]
    assert done == ["repo.add", "restore.directory", "repo.drill", "repo.prune", "team.sweep"]
    own = await audit.page(pool, await teams.default(pool))
    assert [one.entry.action for one in own] == ["repo.add"]


async def test_what_is_archived_is_no_failure_of_a_sweep(
    everref: Everref, pool: asyncpg.Pool, work: Work, make_work: Callable[..., Work]
) -> None:
    gone = make_work("gone.git")
    gone.commit("main")
    work.commit("main")
    everref("backup", str(gone.path), "--name", "a")
    everref("backup", str(work.path), "--name", "b")
    gone.path.rename(gone.path.with_name("moved.git"))
    everref("sweep", code=4)
    await pool.execute("update repo set archived_at = failing_since where name = 'a'")
    archived, saved = everref.json("sweep").lines
    assert (archived["repo"], archived["archived"], archived["error"]) == ("a", True, None)
    assert (saved["repo"], saved["archived"]) == ("b", False)
    kept = everref.json("repos").lines[0]
    assert (kept["state"], kept["failure"], kept["behind_since"]) == ("archived", None, None)
    assert "archived: no longer at its host" in everref("repos").out
    gone.path.with_name("moved.git").rename(gone.path)
    assert everref.json("sweep").lines[0]["snapshot"] == 1
    assert everref.json("repos").lines[0]["state"] == "protected"


async def test_a_deploy_key_is_printed_and_reaches_a_host_by_ssh(
    everref: Everref, sshd: Sshd, work: Work, pool: asyncpg.Pool
) -> None:
    work.commit("main")
    public = everref.json("ssh-key").one["public_key"]
    assert everref("ssh-key").out.strip() == public and public.startswith("ssh-ed25519 ")
    sshd.let_in(public)
    done = everref.json("backup", sshd.url(work.path), "--name", "r").one
    assert (done["repo"], done["snapshot"]) == ("r", 1)
    goal = everref.place / "goal.git"
    run_git("init", "--quiet", "--bare", goal)
    assert everref("restore", "r", "--to", sshd.url(goal)).out.rstrip().endswith("verified")
    assert refs_of(goal) == refs_of(work.path)
    own = ssh_access.new_key("mine")
    sshd.let_in(own.public)
    work.commit("main")
    assert "does not accept this ssh key" in everref("backup", sshd.url(work.path), "--name", "r", code=1).err
    file = everref.place / "key"
    file.write_text(own.private)
    assert everref.json("backup", sshd.url(work.path), "--token-file", str(file)).one["snapshot"] == 2
    file.write_text("no key")
    assert (
        "must hold a private key"
        in everref("backup", sshd.url(work.path), "--token-file", str(file), code=2).err
    )

"""The log: every line has its time and level, and the repo and job that were at work; none has a secret."""

import asyncio
import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.core.config import Settings, from_env
from mirror.core.errors import NetworkError, UsageError
from mirror.core.logs import Lines, at_work
from mirror.core.redact import Redactor
from mirror.jobs import run as jobbing
from mirror.jobs.runner import Runner
from mirror.services.startup import environment
from mirror.store import repos
from mirror.store.jobs import jobs
from tests.parts.everref import Mirror
from tests.parts.repos import Work
from tests.parts.s3 import free_ports
from tests.parts.web import Site

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
SECRET = 'hunter2"\\canary'  # which JSON writes otherwise


class Kept(logging.Handler):
    """Keeps the lines as they would be written."""

    def __init__(self, form: str) -> None:
        super().__init__()
        redact = Redactor()
        redact.add(SECRET)
        self.setFormatter(Lines("a test", "json" if form == "json" else "text", redact))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


log = logging.getLogger("mirror.a_test")


@pytest.fixture(params=["text", "json"])
def kept(request: pytest.FixtureRequest) -> Iterator[Kept]:
    """What is written to this logger, and nothing that anybody else has to say meanwhile."""
    handler = Kept(request.param)
    log.addHandler(handler)
    yield handler
    log.removeHandler(handler)


@pytest.fixture
def kept_json() -> Iterator[Kept]:
    handler = Kept("json")
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


async def test_a_line_has_time_level_repo_and_job_also_from_tasks_and_threads(kept: Kept) -> None:
    async def elsewhere() -> None:
        log.warning("in a task")
        await asyncio.to_thread(log.warning, "in a thread")

    with at_work("a-repo", None) as work:
        begun = asyncio.create_task(elsewhere())
        work.job = "a-job"  # what is begun before hears of it as well
        await begun
    log.warning("after it")
    *within, after = kept.lines
    assert len(within) == 2 and "a-repo" not in after
    for line in within:
        if line.startswith("{"):
            told = json.loads(line)
            assert re.fullmatch(TIME, told.pop("time"))
            assert told.pop("message").startswith("in a t")
            assert told == {
                "level": "warning",
                "program": "a test",
                "logger": "mirror.a_test",
                "repo": "a-repo",
                "job": "a-job",
            }
        else:
            assert re.fullmatch(TIME + r" WARNING a test: in a \w+ repo=a-repo job=a-job", line)


def test_no_secret_is_in_a_line_nor_in_its_traceback(kept: Kept) -> None:
    try:
        raise ValueError(f"refused: {SECRET} at https://alice:pw@h.example/x")
    except ValueError:
        log.exception("what was asked: %s", SECRET)
    (line,) = kept.lines
    assert "hunter2" not in line and "canary" not in line and "alice:pw" not in line
    assert line.count("***") >= 3 and "ValueError" in line


def test_a_record_with_a_traceback_is_one_line_of_json(kept_json: Kept) -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        log.exception("it\nbroke")
    (line,) = kept_json.lines
    assert "\n" not in line
    told = json.loads(line)
    assert told["message"] == "it\nbroke"
    assert told["exception"].startswith("Traceback") and told["exception"].endswith("first\nsecond")


# Each ends a line somewhere, moves the cursor, or turns round what follows.
CONTROLS = "\n\r\x0b\x0c\x1b\x7f\x85\x9b\u200b\u2028\u2029\u202e\u2066\ufeff\U000e0001"
FORGED = "2026-01-01T00:00:00.000Z ERROR everref web: forged"


def test_what_a_stranger_writes_makes_no_line_of_its_own(kept: Kept) -> None:
    log.warning("called %s", "é".join(["x", *(f"{one}{FORGED}" for one in CONTROLS)]))
    (line,) = kept.lines
    assert line.isprintable() and line.count("forged") == len(CONTROLS)


def test_half_a_character_is_written_as_its_code() -> None:
    record = logging.makeLogRecord({"msg": "a\ud800b", "levelname": "WARNING", "created": 0.0})
    for form in ("text", "json"):
        line = Lines("a test", "json" if form == "json" else "text", str).format(record)
        assert line.isascii() and "d800" in line


def test_what_a_stranger_writes_makes_no_line_from_within_an_exception(kept: Kept) -> None:
    try:
        raise ValueError("".join(f"{one}{FORGED}" for one in CONTROLS))
    except ValueError:
        log.exception("a bug")
    (line,) = kept.lines
    first, *below = line.splitlines()
    assert first.isprintable() and all(one.isprintable() and one.startswith("    ") for one in below)
    assert line.count("forged") == len(CONTROLS)


async def test_what_a_worker_says_of_a_run_names_its_repo_and_job(
    mirror: Mirror, work: Work, kept_json: Kept
) -> None:
    work.commit()
    repo = (await mirror.backup(work)).repo
    os.rename(work.path, f"{work.path}.away")
    job = await jobbing.ask(mirror.services, repo.id, "sync", {})
    await Runner(mirror.services).work_off()
    told = [json.loads(line) for line in kept_json.lines]
    assert [(one["repo"], one["job"]) for one in told if "sync of" in one["message"]] == [
        (str(repo.id), str(job.id))
    ]


async def test_each_job_that_ends_is_a_line_that_names_it(
    mirror: Mirror, work: Work, kept_json: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mirror")
    db = mirror.services.db
    work.commit()
    repo = (await mirror.backup(work)).repo
    work.commit()
    await repos.request_sync(db, repo.id, mirror.clock())  # served by a run that has no row before its end
    await Runner(mirror.services).work_off()
    await jobbing.ask(mirror.services, repo.id, "drill", {})
    await Runner(mirror.services).work_off()
    told = [json.loads(line) for line in kept_json.lines]
    rows = await db.fetch("select id, kind from job where kind in ('sync', 'drill') order by queued_at")
    assert [row["kind"] for row in rows] == ["sync", "drill"]
    assert [(one["message"], one["job"]) for one in told if one["logger"] == "mirror.jobs"] == [
        (f"{row['kind']} of {repo.id}: done", str(row["id"])) for row in rows
    ]


async def test_a_run_that_gets_a_row_only_later_names_its_job_from_then_on(
    mirror: Mirror, work: Work, kept_json: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.commit()
    repo = (await mirror.backup(work)).repo
    os.rename(work.path, f"{work.path}.away")
    await repos.request_sync(mirror.services.db, repo.id, mirror.clock())
    finished = jobs.finish

    async def finish(*args: object, **named: object) -> bool:
        log.warning("it ends")
        return await finished(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(jobs, "finish", finish)
    await Runner(mirror.services).work_off()
    (job,) = await mirror.services.db.fetch(
        "select id from job where repo_id = $1 and kind = 'sync'", repo.id
    )
    told = [json.loads(line) for line in kept_json.lines]
    (failed,) = [one for one in told if "sync of" in one["message"]]
    (ended,) = [one for one in told if one["message"] == "it ends"]
    assert (failed["repo"], "job" in failed) == (str(repo.id), False)
    assert (ended["repo"], ended["job"]) == (str(repo.id), str(job["id"]))


@pytest.mark.parametrize("path", ["/sign-in/one-time-word", "/invitations/one-time-word"])
async def test_the_word_of_a_link_is_in_no_line(
    site: Site, path: str, kept_json: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object, **__: object) -> None:
        raise NetworkError("the database does not answer")

    browser = await site.signed_in(await site.person("ann"))
    monkeypatch.setattr(type(site.mirror.services.db), "fetchrow", away)
    assert (await browser.get(path)).status_code >= 500
    assert kept_json.lines and "one-time-word" not in "".join(kept_json.lines)


# As a process.


def test_the_form_is_checked_at_the_start_and_handed_on() -> None:
    def read(env: dict[str, str]) -> Settings:
        return from_env(env, lambda _: "", "data")

    assert (read({}).log, read({"EVERREF_LOG": "JSON"}).log) == ("text", "json")
    assert read(environment(read({"EVERREF_LOG": "json"}), {})).log == "json"
    with pytest.raises(UsageError, match="EVERREF_LOG must be one of text, json, not 'xml'"):
        read({"EVERREF_LOG": "xml"})


BROKEN = """
import sys, threading, warnings, logging
from mirror.services import startup as process
async def main(settings, ties):
    logging.getLogger("uvicorn.error").error("of uvicorn")
    logging.getLogger("arq.worker").error("of arq")
    warnings.warn("of python")
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    raise RuntimeError(settings.database_url)
sys.exit(process.begin("everref test", main))
"""


def started(code: str, tmp_path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    given = {"PATH": os.environ["PATH"], "EVERREF_DATA": str(tmp_path), **env}
    return subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True)


def test_all_that_a_process_says_goes_the_same_way(tmp_path: Path) -> None:
    url = "postgresql://u:canary-of-the-password@h/d"
    done = started(BROKEN, tmp_path, EVERREF_LOG="json", DATABASE_URL=url)
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 1 and "canary" not in done.stderr
    assert [one["logger"] for one in told] == [
        "uvicorn.error",
        "arq.worker",
        "py.warnings",
        "mirror",
        "mirror.services.startup",
    ]
    assert "ZeroDivisionError" in told[3]["exception"]
    assert told[4]["exception"].splitlines()[-1] == "RuntimeError: postgresql://***@h/d"
    assert {one["program"] for one in told} == {"everref test"}


def test_what_is_wrong_with_a_setting_is_told_as_the_log_is_wanted(tmp_path: Path) -> None:
    done = started(BROKEN, tmp_path, EVERREF_LOG="json", PORT="none")
    assert done.returncode == 2
    assert json.loads(done.stderr)["message"] == "PORT must be a number from 1 to 65535, not 'none'"


async def test_arqs_own_command_logs_like_ours(tmp_path: Path) -> None:
    code = """
import logging, logging.config
from arq.logs import default_log_config
from mirror.services import startup as process
from mirror.core.config import Settings
logging.config.dictConfig(default_log_config(False))
process.begin_log("everref worker", Settings("data", log="json"))
logging.getLogger("arq.worker").info("began a job")
logging.getLogger("arq.worker").warning("once")
"""
    (line,) = started(code, tmp_path).stderr.splitlines()
    assert json.loads(line)["message"] == "once"


async def test_under_up_every_line_of_each_process_is_json_that_names_it(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    up = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mirror.cli", "up", "--json", "--port", str(port), "--data", str(tmp_path)),
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "EVERREF_LOG": "json"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert up.stdout is not None and up.stderr is not None
    assert (await up.stdout.readline()).startswith(b"{")
    told: list[dict[str, str]] = []
    (worker,) = _children(up.pid, b"mirror.worker")
    os.kill(worker, signal.SIGKILL)
    while not told or "running again" not in told[-1]["message"]:
        told.append(json.loads(await up.stderr.readline()))
    up.terminate()
    rest = (await up.communicate())[1]
    told += [json.loads(line) for line in rest.splitlines()]
    assert {one["program"] for one in told} >= {"everref up"}
    assert {one["level"] for one in told} >= {"warning"}


def _children(parent: int, word: bytes) -> list[int]:
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(one) for one in found if word in Path(f"/proc/{one}/cmdline").read_bytes()]


def test_a_user_of_a_server_of_ours_is_no_secret() -> None:
    redact = Redactor()
    redact.learn({"DATABASE_URL": "postgresql://everref@/everref"}, [])
    assert redact("everref is up") == "everref is up"

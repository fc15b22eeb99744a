"""Git is started clean, held to its limits, and leaves nothing behind."""

import asyncio
import fcntl
import os
import select
import signal
import subprocess
import sys
import termios
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.core.errors import Corrupt, DiskFull, LimitReached, NetworkError, OurFault
from mirror.git import run
from mirror.git.run import Git, GitFailed, Limits, explain, redact
from tests.parts.repos import Work


@pytest.fixture(params=["setpriv", "prctl"])
def git(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Git:
    if request.param == "prctl":
        monkeypatch.setattr(run, "_setpriv", tuple)
    return Git("git", str(tmp_path))


def shell(script: str) -> tuple[str, ...]:
    """The words that make git run a script as its child."""
    return ("-c", f"alias.act=!{script}", "act")


def wait_for_end(pid: int) -> None:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([fd], [], [], 20)[0], f"process {pid} is still there"
    finally:
        os.close(fd)


async def test_its_output_is_the_answer(git: Git) -> None:
    assert (await git.run("version")).startswith(b"git version ")


async def test_a_failure_says_in_one_line_what_git_said(git: Git, work: Work) -> None:
    with pytest.raises(GitFailed) as failed:
        await git.run("rev-parse", "--verify", "refs/heads/none", git_dir=str(work.path))
    assert str(failed.value) == "git rev-parse ended with code 128: Needed a single revision"
    assert failed.value.returncode == 128


async def test_what_a_failed_git_had_said_is_kept(git: Git, work: Work) -> None:
    with pytest.raises(GitFailed) as failed:
        await git.run(*shell("echo half; echo 'fatal: no more' >&2; exit 3"), git_dir=str(work.path))
    assert (failed.value.stdout, failed.value.returncode, failed.value.line) == (b"half\n", 3, "no more")


async def test_the_environment_is_ours_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "GIT_TRACE2",
        "GIT_DIR",
        "https_proxy",
        "GIT_SSH_COMMAND",
        "LD_PRELOAD_X",
        "XDG_CONFIG_HOME",
    ):
        monkeypatch.setenv(name, "leaked")
    lines = (await Git("git", str(tmp_path)).run(*shell("env"))).decode().splitlines()
    assert not [line for line in lines if "leaked" in line]
    assert f"HOME={tmp_path}" in lines
    assert {f"{name}={value}" for name, value in run.ENVIRONMENT.items()} <= set(lines)


async def test_nobodys_configuration_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".gitconfig").write_text("[user]\nname = Mallory\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    listed = await Git("git", str(tmp_path)).run("config", "--list", "--show-scope")
    assert {line.split(b"\t")[0] for line in listed.splitlines()} == {b"command"}


async def test_transports_other_than_https_are_refused(git: Git) -> None:
    for url in (
        "ext::sh -c true",
        "file:///",
        "ssh://localhost/x",
        "http://localhost/x",
        "git://localhost/x",
    ):
        with pytest.raises(GitFailed, match="not allowed"):
            await git.run("ls-remote", "--end-of-options", url)


async def test_a_secret_in_the_configuration_shows_nowhere(git: Git, work: Work) -> None:
    header = "Authorization: Basic c2VjcmV0LWNhbmFyeQ=="
    config = {"http.https://example.org/.extraHeader": header}
    script = "tr '\\0' ' ' </proc/$PPID/cmdline; env | grep ^GIT_CONFIG_VALUE >&2; exit 1"
    with pytest.raises(GitFailed) as failed:
        await git.run(*shell(script), git_dir=str(work.path), env_config=config)
    assert b"alias.act" in failed.value.stdout and b"c2VjcmV0" not in failed.value.stdout
    assert "c2VjcmV0" not in failed.value.stderr + str(failed.value) + repr(failed.value)
    read_back = await git.run("config", "--get", "http.https://example.org/.extraHeader", env_config=config)
    assert read_back.decode().strip() == header


async def test_input_and_output_may_both_be_large(git: Git, work: Work) -> None:
    tip = work.commit()
    asked = b"%s\n" % tip * 100_000
    answer = await git.run("cat-file", "--batch-check=%(objectname)", git_dir=str(work.path), stdin=asked)
    assert answer == asked


async def test_input_may_be_a_stream(git: Git, work: Work) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(8):
            yield bytes(1 << 20)

    oid = await git.run("hash-object", "--stdin", git_dir=str(work.path), stdin=chunks())
    assert oid.strip() == work.git("hash-object", "--stdin", stdin=bytes(8 << 20)).strip()


async def test_input_that_git_does_not_want_is_dropped(git: Git) -> None:
    assert (await git.run("version", stdin=bytes(4 << 20))).startswith(b"git version")


async def test_a_git_that_fails_while_it_is_fed_says_why(git: Git, work: Work) -> None:
    fed = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal fed
        while True:
            fed += 1
            yield bytes(1 << 20)

    with pytest.raises(GitFailed, match="pack signature mismatch"):
        await git.run("index-pack", "--stdin", git_dir=str(work.path), stdin=endless())
    assert fed < 50


async def test_a_source_that_fails_ends_git_and_is_what_is_raised(git: Git, work: Work) -> None:
    async def breaks() -> AsyncIterator[bytes]:
        yield b"PACK"
        raise NetworkError("the line went dead")

    with pytest.raises(NetworkError, match="the line went dead"):
        await git.run("index-pack", "--stdin", git_dir=str(work.path), stdin=breaks())


async def test_a_running_git_is_written_to_and_read_from_in_turn(git: Git, work: Work) -> None:
    tip = work.commit()
    async with git.process("cat-file", "--batch-check", git_dir=str(work.path)) as child:
        for _ in range(3):
            await child.stdin.write(tip + b"\n")
            assert await child.stdout.read() == tip + b" commit 175\n"
        child.stdin.close()
        assert await child.stdout.read() == b""


async def test_a_long_output_that_comes_in_small_pieces_is_read_in_large_ones(git: Git) -> None:
    pauses = 0
    async with git.process(program="cat") as child:

        async def pause() -> None:
            """Many small writes, until all of them are in the pipe; the next time, the end."""
            nonlocal pauses
            pauses += 1
            for number in range(20 if pauses == 1 else 0):
                await child.stdin.write(b"x" * 999)
                while waiting(child) < 999 * (number + 1):  # noqa: ASYNC110 - it is another process
                    await asyncio.sleep(0)
            if pauses == 2:
                child.stdin.close()

        await child.stdin.write(b"y" * run.BULK)
        chunks = [chunk async for chunk in child.stdout.in_bulk(pause)]
    assert b"".join(chunks[:-1]) == b"y" * run.BULK and chunks[-1] == b"x" * 999 * 20


async def test_nothing_waits_for_a_small_pipe_that_is_full(git: Git) -> None:
    async def paused() -> None:
        raise AssertionError("git waits for us meanwhile")

    size = 4 * run.BULK
    async with git.process(program="cat") as child:
        fcntl.fcntl(child.stdout.fileno(), fcntl.F_SETPIPE_SZ, os.sysconf("SC_PAGE_SIZE"))
        async with child.fed(b"x" * size):
            assert sum([len(chunk) async for chunk in child.stdout.in_bulk(paused)]) == size


def waiting(child: run.Process) -> int:
    """Bytes that it has written and nobody has read."""
    told = bytearray(4)
    fcntl.ioctl(child.stdout.fileno(), termios.FIONREAD, told)
    return int.from_bytes(told, sys.byteorder)


async def test_leaving_the_block_waits_for_the_end_and_raises(git: Git) -> None:
    with pytest.raises(GitFailed, match="code 7"):
        async with git.process(*shell("head -c 3000000 /dev/zero; exit 7")) as child:
            await child.stdout.read()


async def test_a_failing_block_kills_git_and_its_children(git: Git) -> None:
    with pytest.raises(ZeroDivisionError):
        async with git.process(*shell("sleep 1000 & echo $!; wait")) as child:
            grandchild = int(await child.stdout.read())
            raise ZeroDivisionError
    wait_for_end(grandchild)
    assert child.exited.result() == -signal.SIGKILL


async def test_children_that_outlive_git_are_ended_with_it(git: Git) -> None:
    async with git.process(*shell("sleep 1000 >/dev/null 2>&1 & echo $!")) as child:
        grandchild = int(await child.stdout.read())
    wait_for_end(grandchild)


async def test_a_time_limit_ends_it_in_one_line(git: Git) -> None:
    with pytest.raises(LimitReached, match=r"took longer than 0.1 s and was stopped"):
        await git.run(*shell("sleep 1000"), timeout=0.1)


async def test_a_cancelled_run_leaves_no_process(git: Git, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pid")
    script = f"sleep 1000 & echo $! >{tmp_path}/pid; wait"
    task = asyncio.create_task(git.run(*shell(script), stdin=bytes(4 << 20)))
    grandchild = int(await asyncio.to_thread((tmp_path / "pid").read_text))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    wait_for_end(grandchild)


@pytest.mark.parametrize("leash", ["run._setpriv", "tuple"])
def test_no_file_stays_open(leash: str, tmp_path: Path) -> None:
    """In a process of its own, as other tests' servers open files in this one whenever they like."""
    program = textwrap.dedent(
        f"""
        import asyncio, os
        from mirror.core.errors import LimitReached
        from mirror.git import run
        run._setpriv = {leash}

        async def fails(error, *words, **limit):
            try:
                await run.Git("git", {str(tmp_path)!r}).run(*words, **limit)
            except error:
                return
            raise AssertionError(words)

        async def main():
            git = run.Git("git", {str(tmp_path)!r})
            await git.run("version")
            before = os.listdir("/proc/self/fd")
            for _ in range(3):
                await git.run("version", stdin=b"x")
                await fails(run.GitFailed, "no-such-verb")
                await fails(LimitReached, *{shell("sleep 1000")!r}, timeout=0.01)
            assert os.listdir("/proc/self/fd") == before

        asyncio.run(main())
        """
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("leash", ["run._setpriv", "tuple"])
def test_git_dies_when_we_are_killed(leash: str, tmp_path: Path) -> None:
    program = textwrap.dedent(
        f"""
        import asyncio
        from mirror.git import run
        run._setpriv = {leash}
        async def main():
            async with run.Git("git", {str(tmp_path)!r}).process("cat-file", "--batch", git_dir="/") as child:
                print(child.pid, flush=True)
                await asyncio.sleep(1000)
        asyncio.run(main())
        """
    ).replace('"cat-file", "--batch", git_dir="/"', '"hash-object", "--stdin"')
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as ours:
        assert ours.stdout
        pid = int(ours.stdout.readline())
        ours.kill()
    wait_for_end(pid)


async def test_a_file_that_grows_too_large_is_a_limit(work: Work, tmp_path: Path) -> None:
    git = Git("git", str(tmp_path), limits=Limits(file=1 << 20))
    with pytest.raises(GitFailed) as failed:
        await git.run("hash-object", "-w", "--stdin", git_dir=str(work.path), stdin=os.urandom(4 << 20))
    assert isinstance(explain(failed.value), LimitReached)


async def test_memory_is_limited(work: Work, tmp_path: Path) -> None:
    git = Git("git", str(tmp_path), limits=Limits(memory=16 << 20))
    with pytest.raises(GitFailed) as failed:
        await git.run("hash-object", "-w", "--stdin", git_dir=str(work.path), stdin=bytes(64 << 20))
    assert "out of memory" in str(explain(failed.value))


async def test_the_processors_time_is_limited(tmp_path: Path) -> None:
    git = Git("git", str(tmp_path), limits=Limits(cpu=2))
    with pytest.raises(GitFailed) as failed:
        async with git.process("-c", "while :; do :; done", program="sh", timeout=60):
            pass
    assert failed.value.returncode == -signal.SIGXCPU
    stopped = GitFailed("index-pack", -signal.SIGXCPU, "")
    assert "took more than 4 hours of the processor" in str(explain(stopped))


async def test_a_missing_git_is_one_line_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(OurFault, match="install git 2.39 or newer, or set EVERREF_GIT"):
        await Git("/nowhere/git", str(tmp_path)).run("version")


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        ("fatal: write error: No space left on device\nfatal: index-pack failed", DiskFull),
        ("fatal: sha1 file '/x/tmp_idx_Q' write error. Out of diskspace", DiskFull),
        ("fatal: Unable to create temporary file '/x/tmp_idx': Too many open files", LimitReached),
        ("fatal: premature end of pack file, 3 bytes missing", Corrupt),
        ("fatal: Out of memory, malloc failed (tried to allocate 1 bytes)", LimitReached),
        ("error: unable to create temporary file: Read-only file system", OurFault),
        ("fatal: early EOF", Corrupt),
        ("fatal: pack is corrupted (SHA1 mismatch)", Corrupt),
        ("fatal: pack has 3 unresolved deltas", Corrupt),
        ("fatal: did not receive expected object 1234", Corrupt),
        ("fatal: something else", GitFailed),
    ],
)
def test_gits_words_have_a_meaning(words: str, meaning: type[Exception]) -> None:
    assert type(explain(GitFailed("index-pack", 128, words))) is meaning


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (
            b"unable to access 'https://me:token@example.org/x'",
            "unable to access 'https://***@example.org/x'",
        ),
        (b"> Authorization: Basic abc", "> Authorization: ***"),
        (b"remote: \x1b[31mred\x07", "remote:  [31mred "),
        (b"not utf-8 \xff", "not utf-8 \ufffd"),
        (b"the word of the day is hunter2", "the word of the day is ***"),
    ],
)
def test_what_git_says_is_fit_to_be_shown(words: bytes, shown: str) -> None:
    assert redact(words, ["Authorization: Basic hunter2"]) == shown

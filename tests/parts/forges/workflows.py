"""Git's hook `proc-receive` of a GitHub whose caller may not write workflow files.

Each ref that would bring a file of `.github/workflows` that no branch of the repository has yet, at the same
path and with the same content, is refused by itself; the others are written.
https://docs.github.com/en/apps/oauth-apps/building-oauth-apps/scopes-for-oauth-apps ("workflow"),
https://git-scm.com/docs/githooks#proc-receive
"""

import subprocess
import sys
from pathlib import Path
from typing import Final

FOLDER: Final = ".github/workflows"


def config_for(room: Path, who: str) -> tuple[str, ...]:
    """The settings of git under which it refuses `who`: "an OAuth App", "a Personal Access Token"."""
    hook = room / f"hooks-{who.replace(' ', '-')}" / "proc-receive"
    if not hook.exists():
        hook.parent.mkdir()
        hook.write_text(f"#!/bin/sh\nexec '{sys.executable}' -ISE '{__file__}' '{who}'\n")
        hook.chmod(0o700)
    return f"core.hooksPath={hook.parent}", "receive.procReceiveRefs=am:refs"


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, check=False)
    return done.stdout.decode(errors="replace")


def _files(tip: str) -> set[str]:
    """The workflow files of a tip, each as git lists it: its kind, its id and its path."""
    lines = _git("ls-tree", "-r", tip, "--", FOLDER).splitlines()
    return {line for line in lines if line.endswith((".yml", ".yaml"))}


def _answer(old: str, new: str, name: str, who: str) -> str:
    branches = _git("for-each-ref", "--format=%(objectname)", "refs/heads").split()
    if fresh := sorted(_files(new).difference(*map(_files, branches))):
        path = fresh[0].partition("\t")[2]
        why = f"refusing to allow {who} to create or update workflow `{path}` without `workflow` scope"
        return f"ng {name} {why}"
    written = subprocess.run(["git", "update-ref", name, new, old], capture_output=True, check=False)
    return f"ng {name} failed to update ref" if written.returncode else f"ok {name}"


def _read() -> list[str]:
    """The lines up to the next flush: https://git-scm.com/docs/protocol-common#_pkt_line_format"""
    lines = []
    while size := int(sys.stdin.buffer.read(4), 16):
        lines.append(sys.stdin.buffer.read(size - 4).decode("utf-8", "surrogateescape").rstrip("\n"))
    return lines


def _write(lines: list[str]) -> None:
    for line in lines:
        raw = line.encode("utf-8", "surrogateescape")
        sys.stdout.buffer.write(b"%04x%b" % (len(raw) + 4, raw))
    sys.stdout.buffer.write(b"0000")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    _read()
    _write(["version=1"])
    asked = [line.split(" ", 2) for line in _read()]
    _write([_answer(old, new, name, sys.argv[1]) for old, new, name in asked])

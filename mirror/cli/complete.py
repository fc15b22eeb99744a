"""Completion scripts, generated from the grammar itself so that they never fall behind it."""

import argparse

import shtab

from mirror.cli import arguments

_FILES = ("bundle", "token_file")
_DIRECTORIES = ("data", "dir", "remote", "to")


def script(shell: str) -> str:
    """The completion script for bash, zsh or tcsh."""

    def mark(action: argparse.Action) -> None:
        action.complete = shtab.FILE if action.dest in _FILES else shtab.DIRECTORY  # type: ignore[attr-defined]

    parser = arguments.describe(_FILES + _DIRECTORIES, mark)
    return str(shtab.complete(parser, shell=shell)).rstrip() + "\n"

"""A process that dies at its n-th step, played inside the process of the tests.

A step is a failpoint that is reached, or an effect on a directory vault, before it and after it. From then
on nothing of what dies has any effect: its connections to the database are cut, as the end of a process cuts
them, and every call to the vault fails; its locks go as its files are closed. So cleaning up, which a process
that is killed does not do, can hide nothing.
"""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from mirror.core.formats import layout
from mirror.services import failpoints
from mirror.services.open import Services
from mirror.vault.directory import DirectoryVault, FileWriter

_EFFECTS = ("put", "delete", "give_up")
_QUESTIONS = ("get", "stat", "unfinished")


class Killed(BaseException):
    """The process is gone."""


class Death:
    """When the flow that runs now dies, and whether it has."""

    def __init__(self) -> None:
        self.left: int | None = None  # steps; None: it lives
        self.dead = False
        self.where = ""  # the step at which it died
        self._db: asyncpg.Pool | None = None
        self._chance = random.Random(0)

    def seed(self, seed: int) -> None:
        """From here on new keys are the same ones on every run."""
        self._chance = random.Random(seed)

    @asynccontextmanager
    async def after(self, steps: int, services: Services) -> AsyncIterator[None]:
        """Whatever runs in the block dies after so many steps, if it takes as many."""
        self.left, self.dead, self.where, self._db = steps, False, "", services.db
        try:
            yield
        except BaseException:
            if not self.dead:
                raise
        finally:
            self.left = None

    def step(self, name: str) -> None:
        """One step more. Raises Killed from the fatal one on."""
        if self.left is None and not self.dead:
            return
        if self.left is not None and not self.dead:
            self.left -= 1
            self.dead = self.left < 0
            if self.dead:
                self.where = name
                assert self._db is not None
                self._db.terminate()
        if self.dead:
            raise Killed(self.where)

    def again(self) -> None:
        """Another process begins."""
        self.left, self.dead = None, False

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Count the steps of everything in this process."""
        patch.setattr(failpoints, "reached", self.step)
        patch.setattr(layout, "unique", lambda: f"{self._chance.getrandbits(64):016x}")
        for name in _EFFECTS:
            patch.setattr(DirectoryVault, name, self._around(f"vault: {name}", getattr(DirectoryVault, name)))
        for name in _QUESTIONS:
            patch.setattr(DirectoryVault, name, self._before(getattr(DirectoryVault, name)))
        patch.setattr(FileWriter, "begin", self._around("vault: begin", FileWriter.begin))
        patch.setattr(FileWriter, "commit", self._around("vault: commit", FileWriter.commit))

    def _around(self, name: str, effect: Callable[..., Any]) -> Callable[..., Any]:
        async def called(*args: Any, **kwargs: Any) -> Any:
            self.step(f"{name}, before")
            found = await effect(*args, **kwargs)
            self.step(f"{name}, after")
            return found

        return called

    def _before(self, question: Callable[..., Any]) -> Callable[..., Any]:
        async def called(*args: Any, **kwargs: Any) -> Any:
            if self.dead:
                raise Killed(self.where)
            return await question(*args, **kwargs)

        return called

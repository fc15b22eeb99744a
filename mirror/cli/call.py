"""One call of the command: its words, settings and output, and what every command reads of them."""

import argparse
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from mirror.cli import environment
from mirror.cli.terminal import Out
from mirror.core.config import Settings
from mirror.core.errors import UsageError
from mirror.core.model import Remote, Secret
from mirror.core.redact import Redactor

if TYPE_CHECKING:
    from mirror.core.times.when import When
    from mirror.services.open import Services

IN_PART: Final = 4  # the exit code of what was done in part


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the command."""

    args: argparse.Namespace
    settings: Settings
    out: Out
    redact: Redactor

    def services(self) -> "AbstractAsyncContextManager[Services]":
        """The outside, open for as long as the command needs it."""
        from mirror.services.open import open_services

        return open_services(self.settings, self.out.progress, environment.now)

    @property
    def repo(self) -> str:
        """The repo as it was named in this call, for a command that it is to be given to."""
        team = self.args.team
        return f"{self.args.repo} --team {team}" if team else str(self.args.repo)

    async def beside(self) -> "Call":
        """The call as one for the `up` that runs on the same data: forges are told of its port."""
        from mirror.cli import up

        return replace(self, settings=await up.beside(self.settings))

    def when(self, text: str | None) -> "When | None":
        """What a WHEN means. None: it was not given."""
        from mirror.core.times import when

        return None if text is None else when.parse(text, environment.now())

    def remote(self, text: str) -> Remote:
        """An address and its credentials, judged as far as that goes without asking anybody."""
        from mirror.git import address

        remote = address.parse_remote(text, self.settings.allow_private_remotes)
        if self.args.token_file is None:
            return remote
        user, _, password = text.partition("://")[2].rpartition("@")[0].partition(":")
        if password:
            raise UsageError("there are credentials in the URL and a --token-file; use one of them")
        given = self.secret(remote.url)
        if not address.is_ssh(remote.url):
            given = Secret(unquote(user), given.password)
        return Remote(remote.url, given)

    def secret(self, url: str) -> Secret:
        """What the --token-file has for this address: a private key for ssh, else a token."""
        from mirror.git import address

        read = environment.read_key if address.is_ssh(url) else environment.read_token
        given = read(self.args.token_file)
        self.redact.add(given)
        return Secret("", given)

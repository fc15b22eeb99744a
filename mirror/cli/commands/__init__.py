"""Each command: its words in, one call of a flow, one answer out. Heavy imports wait till they are needed."""

from collections.abc import Callable, Coroutine, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from mirror.cli.call import Call

Command = Callable[["Call"], Coroutine[Any, Any, int]]  # its result is the exit code

COMMANDS: Final[Mapping[str, str]] = {  # by the module here that has it, and the function
    "up": "running.up",
    "backup": "backups.backup",
    "repos": "backups.repos",
    "log": "backups.log",
    "refs": "backups.refs",
    "plan": "restore.plan",
    "restore": "restore.restore",
    "undo": "restore.undo",
    "share": "shares.run",
    "pushes": "incident.pushes",
    "rollback": "incident.rollback",
    "verify": "proof.verify",
    "drill": "proof.drill",
    "coverage": "proof.coverage",
    "evidence": "evidence.run",
    "retention": "retention.run",
    "hold": "retention.run_hold",
    "pin": "retention.run_pin",
    "replicate": "copies.replicate",
    "archive": "archive.run",
    "costs": "costs.run",
    "keys": "keys.run",
    "reseal": "reseal.run",
    "vault": "vault.run",
    "compact": "upkeep.compact",
    "prune": "upkeep.prune",
    "mirror": "mirrors.one",
    "mirrors": "mirrors.all_of_team",
    "pending": "pending.pending",
    "forget": "pending.forget",
    "erase": "pending.erase",
    "hook": "accounts.hook",
    "connect": "accounts.connect",
    "connections": "accounts.connections",
    "token": "accounts.token",
    "ssh-key": "accounts.ssh_key",
    "limits": "accounts.limits",
    "channel": "notices.channel",
    "status-page": "status_page.run",
    "rpo": "notices.rpo",
    "ping": "notices.ping",
    "sign-in": "running.sign_in",
    "rotate-keys": "upkeep.rotate_keys",
    "sweep": "upkeep.sweep",
    "export": "upkeep.export",
    "create": "create.create_repo",
    "import": "moving.import_repos",
    "rebuild": "upkeep.rebuild",
    "migrate": "running.migrate",
    "notices": "notices.notices",
    "doctor": "doctor.run",
}


def command(name: str) -> Command:
    """What carries out the command of this name; its module, and no other, is imported now."""
    module, _, function = COMMANDS[name].partition(".")
    return cast(Command, getattr(import_module(f"{__name__}.{module}"), function))

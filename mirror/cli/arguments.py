"""What can be said on the command line; a wrong word is one line with what to do."""

import argparse
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from mirror.cli.commands import (
    archive,
    copies,
    costs,
    create,
    doctor,
    incident,
    mirrors,
    moving,
    pending,
    reseal,
    retention,
    shares,
    status_page,
    vault,
)
from mirror.cli.commands.keys import HELP as KEYS
from mirror.cli.commands.keys import declare as declare_keys
from mirror.core.errors import UsageError

WHEN = """\
WHEN is a time such as 2026-03-02T09:14:03Z or 2026-03-02 (UTC unless it says
otherwise, as in 2026-03-02T09:14+01:00; a date is its first moment), a time in words
such as '2h ago', 'yesterday 10:00' or 'last Friday' (days of UTC, too), or a
snapshot's number such as '#12'; write the quotes, the shell needs them. A time
means the last snapshot at or before it."""

GLOB = """\
GLOB is a full name such as refs/heads/main, a short one such as main or
heads/main, or a pattern such as 'refs/tags/v1.*'; the option can be repeated."""

_EPILOG = (
    WHEN
    + """

Every command takes --json (results on standard output, one object or one
object a line; a failure as {"error": {"class", "origin", "message", "retry"}} on
standard error), -q and --data DIR, before or after its name.

exit codes:
  0  done          2  wrong usage            4  done in part: some refs were refused
  1  failed        3  no such thing          130  interrupted

environment:
  EVERREF_DATA           pools, scratch space and the embedded services [~/.local/share/everref]
  EVERREF_TEAM           the team, without --team [the command line's own team]
  EVERREF_POOL_BYTES     what pools may take of the disk, such as 20G [half of what is free]
  DATABASE_URL           postgresql://... [an embedded PostgreSQL]
  VAULT_URL              file:///dir or s3://bucket/prefix?endpoint_url=...&region=... [vault/ in the data]
  SECRET_KEYS            what credentials are encrypted with, newest first [a key of its own in the data]
  ALLOW_PRIVATE_REMOTES  paths, http and private addresses too [on with the embedded PostgreSQL]
  EVERREF_GIT            which git [git]
  REDIS_URL, PORT        for everref up [an embedded Redis, 8000]
  BASE_URL               where people and hosts reach it [http://127.0.0.1:PORT]
Each of these can be given as NAME_FILE, a file that holds the value.
  EVERREF_DEBUG          1: a traceback with every failure
  NO_COLOR               set: no colour

  everref backup https://github.com/acme/api.git
  everref log acme/api --forced
  everref restore acme/api --at '2h ago' --bundle api.bundle
"""
)


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, **options)
        self._action_max_length = 15  # room for the longest command, which argparse forgets to indent


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and repeats nothing that could be a secret."""

    def __init__(self, **options: Any) -> None:
        width = _width()
        super().__init__(
            allow_abbrev=False,
            formatter_class=lambda prog: _Help(prog, max_help_position=26, width=width),
            **options,
        )

    def error(self, message: str) -> NoReturn:
        if "expected one argument" in message and ("--at" in message or "--since" in message):
            message += "; the shell takes #12 for a comment, so write '#12'"
        raise UsageError(f"{message}; see {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            from difflib import get_close_matches

            near = get_close_matches(value, list(action.choices), 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            said = f"there is no command {value!r}" if value.isidentifier() else "there is no such command"
            self.error(said + hint)
        super()._check_value(action, value)


class _Version(argparse.Action):
    """Looks the version up only when it is asked for: that alone would double the start-up time."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> NoReturn:
        from importlib.metadata import version

        print(f"everref {version('everref')}")
        parser.exit()


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The call's words, checked; raises UsageError. `--help` and `--version` print and leave (SystemExit)."""
    args, extra = parser().parse_known_args(argv)
    if args.command is None:
        raise UsageError("say which command; everref --help lists them")
    if extra:
        raise UsageError(f"{_too_much(extra)}; see everref {args.command} --help")
    _check(args)
    return args


def wants_json(argv: Sequence[str]) -> bool:
    """Whether even a failure to parse these arguments has to be told as JSON."""
    words = list(argv)
    return "--json" in (words[: words.index("--")] if "--" in words else words)


def parser() -> argparse.ArgumentParser:
    """The whole grammar. An option's `dest` is what the commands read it by."""
    top = Parser(
        prog="everref",
        description="Every ref, ever: backs up every ref of your git repositories, and restores any moment.",
        epilog=_EPILOG,
    )
    _everywhere(top)
    top.add_argument("--version", action=_Version, nargs=0, help="print the version and leave")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", prog="everref", parser_class=Parser)

    def command(name: str, says: str, epilog: str = "") -> argparse.ArgumentParser:
        made = commands.add_parser(
            name, help=says, description=says[0].upper() + says[1:] + ".", epilog=epilog
        )
        _everywhere(made, default=argparse.SUPPRESS)  # or it would undo what stood before the command
        return made

    up = command("up", "run everything on this machine until Ctrl-C", _UP)
    up.add_argument(
        "--port", type=_port, metavar="N", help="where the web pages are (default: PORT, else 8000)"
    )

    backup = command("backup", "take a snapshot of a repository, adding it if it is new", _BACKUP)
    backup.add_argument(
        "remote",
        metavar="URL|PATH",
        help="https://..., git@host:path, or a path on this machine",
    )
    backup.add_argument("--name", help="what to call it (default: owner/name, from the URL)")
    _team(backup, f"the team to add it to {_OWN}")
    _token(backup, "stored encrypted")

    create.create_arguments(command("create", create.CREATE, create.CREATE_EPILOG))

    repos = command(
        "repos", "list the repositories that are backed up, and as of when each is protected", _REPOS
    )
    _team(repos, "only those of this team (default: all, or EVERREF_TEAM)")
    repos.add_argument("--soon", action="store_true", help="what will soon fail instead, and why")

    log = command("log", "show how the refs moved, newest first", _LOG)
    _repo(log)
    log.add_argument("--ref", action="append", default=[], metavar="GLOB", help="only these refs")
    log.add_argument("--since", metavar="WHEN", help="only what came at or after this moment")
    log.add_argument("--forced", action="store_true", help="only what was overwritten by force")
    log.add_argument("--reverse", action="store_true", help="oldest first")

    refs = command("refs", "show every ref as it was", _REFS)
    _repo(refs)
    _at(refs)
    refs.add_argument("--gone", action="store_true", help="refs that had been deleted by then, newest first")

    plan = command("plan", "show what restore would do, and do nothing", _PLAN)
    _repo(plan)
    _at(plan)
    _globs(plan)
    to = plan.add_mutually_exclusive_group()
    to.add_argument("--to", metavar="URL|PATH", help="the remote to push to")
    _into(to)
    _push(plan)

    restore = command("restore", "restore a moment as a bundle, in a directory, or to a remote", _RESTORE)
    _repo(restore)
    _at(restore)
    _globs(restore)
    where = restore.add_mutually_exclusive_group(required=True)
    where.add_argument("--bundle", metavar="FILE", help="write one git bundle")
    where.add_argument("--to", metavar="URL|PATH", help="push to this remote")
    _into(where)
    where.add_argument("--dir", metavar="DIR", help="make a bare repository; DIR must not exist, or be empty")
    _push(restore)

    sharing = command("share", shares.HELP, shares.EPILOG)
    shares.arguments(sharing)
    _at(sharing)
    _globs(sharing)
    _team(sharing, f"the team that the repo or the link belongs to {_OWN}")

    undo = command("undo", "put back what a restore to a remote overwrote, and remove what it made", _UNDO)
    _repo(undo)
    undo.add_argument(
        "restore",
        metavar="RESTORE",
        nargs="?",
        type=_id,
        help="its id, as `job` in the JSON of restore (default: the last one that was not undone)",
    )
    undo.add_argument("--plan", action="store_true", help="show what it would do, and do nothing")
    _token(undo, "the one that the restore was made with; not stored")

    listing = command("pushes", incident.PUSHES, incident.PUSHES_EPILOG)
    incident.pushes_arguments(listing)
    _team(listing, f"the team {_OWN}")
    rolling = command("rollback", incident.ROLLBACK, incident.ROLLBACK_EPILOG)
    incident.rollback_arguments(rolling)
    _team(rolling, f"the team {_OWN}")

    verify = command("verify", "read back every stored byte of a repo and prove every snapshot", _VERIFY)
    _repo_or_due(verify)
    verify.add_argument(
        "--due", action="store_true", help="instead, read what is due to be read again, of all teams"
    )

    verify.add_argument(
        "--erased", action="store_true", help="instead, prove that a deleted repo, or --object, is gone"
    )
    verify.add_argument(
        "--object", action="append", default=[], metavar="ID", help="with --erased: an object that was erased"
    )

    drill = command("drill", "restore a moment only to prove that it works", _DRILL)
    _repo_or_due(drill)
    _at(drill)
    drill.add_argument(
        "--due", action="store_true", help="instead, every repo whose scheduled drill is due, of all teams"
    )

    drill.add_argument(
        "--all",
        action="store_true",
        help="instead, every repo of the team at its newest moment; goes on where it was stopped",
    )

    coverage = command("coverage", "show how much of the vault was read back, and what is due", _COVERAGE)
    _team(coverage, "only of this team (default: all, or EVERREF_TEAM)")

    evidence = command("evidence", "check what was proved, offline too: signed statements of drills and more")
    _evidence(evidence)

    keeping = command("retention", retention.HELP, retention.EPILOG)
    retention.arguments(keeping)
    _team(keeping, "of this team (default: the command line's own, or EVERREF_TEAM)")

    holding = command("hold", retention.HOLD, retention.HOLD_EPILOG)
    _repo(holding)
    retention.hold_arguments(holding)

    pinning = command("pin", retention.PIN, retention.PIN_EPILOG)
    _repo(pinning)
    retention.pin_arguments(pinning)
    copies.replicate_arguments(command("replicate", copies.REPLICATE, copies.REPLICATE_EPILOG))

    archiving = command("archive", archive.HELP, archive.EPILOG)
    _repo(archiving)
    _at(archiving)
    archive.arguments(archiving)

    costing = command("costs", costs.HELP, costs.EPILOG)
    costs.arguments(costing)
    _repo(costing, optional=True)
    declare_keys(command("keys", "show and change who can open sealed backups", KEYS), _OWN)
    resealing = command("reseal", reseal.HELP, reseal.EPILOG)
    reseal.arguments(resealing)
    _team(resealing, "of this team, or the team of the repo (default: all, or EVERREF_TEAM)")

    _with_more(command("vault", vault.HELP, vault.EPILOG), "vault", vault.SUBCOMMANDS)

    compact = command("compact", "merge small parts in the vault; every moment stays restorable", _COMPACT)
    _repo(compact, optional=True)

    prune = command("prune", "delete what compaction and killed runs left in the vault", _PRUNE)
    _repo(prune, optional=True)
    prune.add_argument(
        "--grace",
        default="24h",
        metavar="TIME",
        help="only what nothing has needed for so long: 0s, 30m, 24h, 7d (default: 24h)",
    )

    pending.arguments(command, _team)
    mirrors.arguments(command, _team)

    hook = command("hook", "let the host report every push, by a webhook", _HOOK)
    _repo(hook)
    hook.add_argument(
        "--forge",
        choices=["github", "gitlab", "gitea"],
        metavar="github|gitlab|gitea",
        help="what the host runs (default: what its name tells; for Forgejo: gitea)",
    )
    what = hook.add_mutually_exclusive_group()
    what.add_argument("--new", action="store_true", help="another secret; the old one works for 24 h more")
    what.add_argument("--remove", action="store_true", help="forget the webhook")

    connect = command(
        "connect", "back up repositories of an account at GitHub or GitLab, by a token", _CONNECT
    )
    connect.add_argument(
        "--forge",
        choices=["github", "gitlab"],
        required=True,
        metavar="github|gitlab",
        help="what the host runs",
    )
    _team(connect, f"the team that it is for {_OWN}")
    connect.add_argument("--host", help="where it is (default: github.com, gitlab.com, or what is set)")
    _token(connect, "stored encrypted")
    which = connect.add_mutually_exclusive_group()
    which.add_argument("--everything", action="store_true", help="back up every repository, and new ones too")
    which.add_argument(
        "--only",
        action="append",
        metavar="PATTERN",
        help="back up what matches, new ones too: 'acme/*', '*/api'; can be repeated",
    )

    connections = command("connections", "list the accounts that are connected", _CONNECTIONS)
    _team(connections, f"of which team {_OWN}")

    token = command("token", "make an API token for programs, shown once", _API_TOKEN)
    token.add_argument("name", metavar="NAME", help="what to call it, such as the program that will use it")
    _team(token, f"for which team {_OWN}")
    token.add_argument(
        "--scope",
        action="append",
        choices=["read", "backup", "restore", "admin"],
        metavar="read|backup|restore|admin",
        help="what it may do; can be repeated (default: all of these)",
    )
    token.add_argument("--expires", metavar="TIME", help="how long it works: 24h, 90d (default: for ever)")

    ssh_key = command("ssh-key", "print the deploy key for hosts that are reached by ssh", _SSH_KEY)
    _team(ssh_key, f"of which team {_OWN}")

    limits = command("limits", "show what a team may have and do, or change it", _LIMITS)
    limits.add_argument(
        "limited", metavar="TEAM", nargs="?", help="its name or id; the command line's own is called everref"
    )
    _team(limits, "the same, in place of TEAM")
    limits.add_argument(
        "changes",
        metavar="NAME=VALUE",
        nargs="*",
        help="a number, a size such as 20G, `unlimited`, or `default`: as for all teams",
    )

    everybody = command("status-page", status_page.HELP, status_page.EPILOG)
    status_page.arguments(everybody)
    _team(everybody, f"the team {_OWN}")

    rpo = command("rpo", "show or set how old the newest backup of a repository may be", _RPO)
    _repo(rpo, optional=True)
    rpo.add_argument(
        "--set",
        dest="rpo",
        metavar="LENGTH",
        help="15m, 1h, 24h, 7d: from 5m to 60d; of a REPO also `team`: as its team",
    )

    ping = command("ping", "tell a monitor outside that all is well, now or by an address", _PING)
    _team(ping, f"for which team {_OWN}")
    ping.add_argument("--installation", action="store_true", help="for all teams, at the address of PING_URL")
    ping.add_argument("--url-file", metavar="FILE|-", help="set up the monitor whose address is in this file")
    ping.add_argument(
        "--style",
        choices=["healthchecks", "plain"],
        help="healthchecks: trouble is told at ADDRESS/fail; plain: by silence alone (default: healthchecks)",
    )
    ping.add_argument("--remove", action="store_true", help="ping no more")

    channel = command("channel", "show, add, test or remove where people are told", _CHANNEL)
    channel.add_argument(
        "channel", metavar="CHANNEL", nargs="?", help="its name or id (default: all are shown)"
    )
    _team(channel, f"of which team {_OWN}")
    channel.add_argument("--installation", action="store_true", help="of whoever runs Everref, not of a team")
    act = channel.add_mutually_exclusive_group()
    act.add_argument(
        "--add", choices=["mail", "webhook", "chat"], metavar="mail|webhook|chat", help="add one"
    )
    act.add_argument("--test", action="store_true", help="send a message there now")
    act.add_argument(
        "--off", metavar="KIND,...", help="the kinds of messages that it does not get; '' for none"
    )
    act.add_argument(
        "--new-key", action="store_true", help="another key for a webhook; the old one signs for a day"
    )
    act.add_argument("--remove", action="store_true", help="send nothing there any more")
    channel.add_argument("--to-file", metavar="FILE|-", help="with --add: the file that holds the address")

    sign_in = command("sign-in", "print a one-time link that signs a person in", _SIGN_IN)
    sign_in.add_argument("email", metavar="EMAIL", nargs="?", help="who (default: the first owner)")

    command(
        "rotate-keys", "encrypt again, with the newest of SECRET_KEYS, what older ones encrypted", _ROTATE
    )

    sweep = command("sweep", "sync every repo", _SWEEP)
    _team(sweep, "only those of this team (default: all, or EVERREF_TEAM)")
    moving.export_arguments(command("export", moving.EXPORT, moving.EXPORT_EPILOG))
    moving.import_arguments(command("import", moving.IMPORT, moving.IMPORT_EPILOG))
    rebuild = command("rebuild", "read the vault back into an empty or older database", _REBUILD)
    rebuild.add_argument(
        "--identity",
        metavar="FILE|-",
        help="where SECRET_KEYS is lost: an age identity, or a sheet's words, that opens the backups",
    )
    migrate = command("migrate", "bring the database to this version's tables", _MIGRATE)
    migrate.add_argument(
        "--wait",
        default="0s",
        metavar="TIME",
        help="how long to wait for a database that does not answer yet: 30s, 5m (default: 0s)",
    )
    notices = command("notices", "show what people were told lately, and where it went", _NOTICES)
    _team(notices, "only of this team (default: all, and the installation's; or EVERREF_TEAM)")
    checking = command(
        "doctor", "show what this installation uses, what that can do, and what is missing", _DOCTOR
    )
    doctor.arguments(checking)
    _team(checking, "with --failover: of this team (default: EVERREF_TEAM, else the command line's own)")

    completion = command("completion", "print a completion script for a shell", _COMPLETION)
    completion.add_argument("shell", choices=["bash", "zsh", "tcsh"])
    return top


def _everywhere(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """What every command takes."""
    parser.add_argument(
        "--json", action="store_true", default=default or False, help="print JSON: one object, or one a line"
    )
    parser.add_argument(
        *("-q", "--quiet"),
        action="store_true",
        default=default or False,
        help="no progress, and no output when all went well",
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        default=default,
        help="where all data is stored (default: EVERREF_DATA, else ~/.local/share/everref)",
    )


def _with_more(
    parser: argparse.ArgumentParser,
    dest: str,
    subcommands: Mapping[str, tuple[str, str, Callable[[argparse.ArgumentParser], None]]],
) -> None:
    """Commands that follow a command: of each its help, its epilog, and what adds its arguments."""
    commands = parser.add_subparsers(dest=dest, metavar="WHAT", required=True, parser_class=Parser)
    for name, (says, epilog, arguments) in subcommands.items():
        made = commands.add_parser(
            name, help=says, description=says[0].upper() + says[1:] + ".", epilog=epilog
        )
        _everywhere(made, default=argparse.SUPPRESS)
        arguments(made)


def _evidence(parser: argparse.ArgumentParser) -> None:
    """What `everref evidence` is followed by."""
    commands = parser.add_subparsers(dest="evidence", metavar="WHAT", required=True, parser_class=Parser)

    def command(name: str, says: str, epilog: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name, help=says, description=says[0].upper() + says[1:] + ".", epilog=epilog
        )
        _everywhere(made, default=argparse.SUPPRESS)
        return made

    verify = command("verify", "check files of evidence with the public keys alone", _EVIDENCE_VERIFY)
    verify.add_argument(
        "files", metavar="FILE", nargs="+", help="a statement, a checkpoint, a proof or a time stamp"
    )
    verify.add_argument(
        "--key",
        metavar="KEYS.json",
        required=True,
        help="the public keys: what /.well-known/everref-evidence.json has, or one key as PEM",
    )
    verify.add_argument(
        "--tsa", metavar="CERTS.pem", help="of the authority whose time stamps are among the files: its root"
    )
    listed = command("list", "list the signed statements about a repo, or a team's days", _EVIDENCE_LIST)
    listed.add_argument("repo", metavar="REPO", nargs="?", help="its name (default: the days of the team)")
    _team(listed, f"the team that it belongs to, or write TEAM:NAME {_OWN}")
    export = command("export", "write all evidence about a repo or a team into a zip", _EVIDENCE_EXPORT)
    _repo(export, optional=True)
    export.add_argument("--to", metavar="FILE.zip", required=True, help="where to; it must not exist")
    export.add_argument(
        "--since",
        type=_number,
        metavar="NUMBER",
        help="of a checkpoint that you have: the proof that the newest one follows it",
    )
    command("check", "compare the checkpoints with what vault and database say now", _EVIDENCE_CHECK)
    command("keys", "print the public keys of this installation", _EVIDENCE_KEYS)
    command("rotate", "let a new key sign from now on", _EVIDENCE_ROTATE)


def _repo(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    if optional:
        parser.add_argument(
            "repo", metavar="REPO", nargs="?", help="its name (default: every repo, or the team's)"
        )
    else:
        parser.add_argument("repo", metavar="REPO", help="its name, as `everref repos` shows it")
    _team(parser, f"the team that it belongs to, or write TEAM:NAME {_OWN}")


def _repo_or_due(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "repo", metavar="REPO", nargs="?", help="its name, as `everref repos` shows it; none with --due"
    )
    _team(parser, f"the team that it belongs to, or write TEAM:NAME {_OWN}")


_OWN = "(default: EVERREF_TEAM, else the command line's own)"


def _team(parser: argparse.ArgumentParser, says: str) -> None:
    """By name or id; what a command means by it says `mirror/restore/moment.py`."""
    parser.add_argument("--team", metavar="TEAM", help=says)


def _at(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--at", metavar="WHEN", help="the moment (default: the latest snapshot)")


def _globs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--refs", action="append", default=[], metavar="GLOB", help="only these refs")


def _into(group: "argparse._MutuallyExclusiveGroup") -> None:
    group.add_argument(
        "--into",
        metavar="REPO",
        help="write to this repo of the same team, REPO itself or another: at its host, or here where it is"
        " one that is pushed to",
    )


def _push(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hidden-refs",
        choices=["skip", "archive"],
        metavar="skip|archive",
        help="with --to and --into: what becomes of refs that hosts refuse, refs/pull/* and the like: "
        "left out, or pushed to refs/archive/... (default: skip)",
    )
    parser.add_argument(
        "--force", action="store_true", help="overwrite refs that differ in the remote, or FILE if it exists"
    )
    parser.add_argument(
        "--only-missing",
        action="store_true",
        help="with --to and --into: create what the remote does not have, and leave everything else there"
        " as it is",
    )
    _token(parser, "for --to; not stored")


def _token(parser: argparse.ArgumentParser, note: str) -> None:
    parser.add_argument(
        "--token-file",
        metavar="FILE|-",
        help=f"a file that holds the access token or password, for ssh a private key ({note}); -: stdin",
    )


def _check(args: argparse.Namespace) -> None:
    """What argparse cannot say: options that need another one."""
    see = f"see everref {args.command} --help"
    if args.command in ("plan", "restore") and not args.to and args.token_file:
        raise UsageError(f"--token-file is for --to; {see}")
    if args.command in ("plan", "restore") and not args.to and not args.into:
        if args.hidden_refs:
            raise UsageError(f"--hidden-refs is for --to; a bundle and a directory take every ref; {see}")
        if args.only_missing:
            raise UsageError(f"--only-missing is for --to; a bundle and a directory hold nothing yet; {see}")
    if args.command in ("plan", "restore") and args.force and args.only_missing:
        raise UsageError(f"--force overwrites and --only-missing does not: say one of them; {see}")
    if args.command == "hook" and args.remove and args.forge:
        raise UsageError(f"--forge is for making a webhook; {see}")
    if args.command == "limits" and args.limited is None and args.team is None:
        raise UsageError(f"name a team: everref limits everref, for the command line's own; {see}")
    if args.command == "ping" and (bool(args.url_file) + args.remove + args.installation > 1):
        raise UsageError(f"--url-file, --remove and --installation exclude each other; {see}")
    if args.command == "ping" and args.style and not args.url_file:
        raise UsageError(f"--style goes with --url-file; {see}")
    if args.command == "channel":
        acts = args.test or args.off is not None or args.new_key or args.remove
        if bool(args.add) != bool(args.to_file):
            raise UsageError(f"--add and --to-file go together, as an address may hold a secret; {see}")
        if acts and args.channel is None:
            raise UsageError(f"say which channel, by its name or id; {see}")
        if args.installation and args.team:
            raise UsageError(f"--team and --installation exclude each other; {see}")
    if args.command == "export" and not args.to and (args.repos or args.team):
        raise UsageError(f"--to DIR says where repos are exported to; {see}")
    if args.command == "connect" and not args.token_file:
        raise UsageError(f"--token-file says where the token is; {see}")
    if args.command == "restore" and args.dir is not None and args.force:
        raise UsageError("--force is for --to, --into and --bundle; a directory must not exist, or be empty")
    for option in (
        "repo",
        "host",
        "remote",
        "name",
        "to",
        "into",
        "default_branch",
        "bundle",
        "dir",
        "data",
        "token_file",
        "team",
        "email",
        "expires",
    ):
        if getattr(args, option, None) == "":
            raise UsageError(f"{option.replace('_', '-')} must not be empty; {see}")


def _too_much(extra: Sequence[str]) -> str:
    """Names an unknown option but never its value, which may be a token."""
    for word in extra:
        option = re.match(r"--[a-z][a-z-]*|-[A-Za-z]", word)
        if option:
            return f"there is no option {option[0]} here"
    return (
        "there is one argument too many" if len(extra) == 1 else f"there are {len(extra)} arguments too many"
    )


def _id(text: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text):
        raise argparse.ArgumentTypeError("it must be the id of a restore")
    return text


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError("it must be a number from 1 to 65535")
    return int(text)


def _number(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 31:
        raise argparse.ArgumentTypeError("it must be a number, 1 or more")
    return int(text)


def _width() -> int:
    """Columns for help texts; argparse's own way imports every compression module there is."""
    try:
        return min(max(os.get_terminal_size(1).columns, 60), 110) - 2
    except (OSError, ValueError):
        return 98


def describe(dests: Iterable[str], mark: Callable[[argparse.Action], None]) -> argparse.ArgumentParser:
    """A parser in which `mark` was called on every action with one of these `dest` names."""
    top = parser()
    pending = [top]
    wanted = frozenset(dests)
    while pending:
        for action in pending.pop()._actions:
            if isinstance(action, argparse._SubParsersAction):
                pending += action.choices.values()
            elif action.dest in wanted:
                mark(action)
    return top


_UP = """\
Starts PostgreSQL, Redis, the web pages and the worker, all under the data
directory, and says where they are once they answer.

It also prints a one-time link that signs its first owner in; everref sign-in
makes another.

--json: {"url", "sign_in"}"""

_BACKUP = """\
Credentials in the URL are cut out at once and stored encrypted; --token-file is
safer, as other users can see a command's arguments.

  everref backup https://github.com/acme/api.git --token-file ~/.github-token
  everref backup ~/src/api --name api

--json: {"repo", "snapshot", "taken_at", "refs", "changes", "head",
         "bundle": {"key", "bytes", "sha256"} or null, "new", "seconds"}"""

_REPOS = """\
A repo of another team than the command line's own is shown as TEAM:NAME, and
log, refs, plan, restore and the others take that name, or NAME with --team,
which takes a team's name or its id.

--json, one a line: {"repo", "team", "url", "snapshots", "refs", "bytes",
                     "large_files_not_saved", "protected_as_of",
                     "state": "damaged|protected|behind|late|failing|paused|archived|never",
                     "damage": {"message", "found_at"} or null,
                     "behind_since", "failure": {"class", "message", "since"} or null}"""

_LOG = (
    WHEN
    + "\n\n"
    + GLOB
    + """

--json, one a line: {"snapshot", "at", "name", "old", "new",
                     "kind": "created|fast-forwarded|forced|deleted|moved", "by"}
A push that could not be rescued has "rescued": false, "why", and no kind.
A name that is no UTF-8 has its bytes in "name_b64" too."""
)

_REFS = (
    WHEN
    + """

--json, one a line: {"name", "target"}; a symbolic target is "ref: refs/heads/main".
With --gone, "target" is what the ref held when it was deleted, and "gone" has when and by whom:
{"last": the last snapshot that had it, "at", "by"}.
A name that is no UTF-8 has its bytes in "name_b64" too."""
)

_PLAN = (
    WHEN
    + "\n\n"
    + GLOB
    + """

--json: {"repo", "snapshot", "taken_at", "to", "steps": ["..."],
         "refs": [{"name", "target", "result", "why", "old", "gains", "loses",
                   "gained", "lost": [{"oid", "summary", "author"}, the newest]}],
         "bytes": at most to send, "commits_uncounted": refs without gains and loses}"""
)

_RESTORE = (
    WHEN
    + "\n\n"
    + GLOB
    + """

A push never deletes anything. Without --force, when any ref of the remote would
be overwritten, nothing at all is pushed. With it, what the remote holds is backed
up first, as a snapshot of a repo of its own, and `everref undo` puts it back.

  everref restore acme/api --at '#12' --bundle api.bundle
  everref restore acme/api --at 2026-03-02 --refs main --dir api.git
  everref restore acme/api --to https://git.example.org/acme/api.git --token-file token
  everref restore acme/api --at '#12' --refs main --into acme/api --force

--json: {"repo", "snapshot", "refs": [{"name", "target",
         "result": "created|updated|unchanged|refused|skipped", "why"}], "verified", "counts",
         "skipped": [{"why", "refs", "names"}], "said": ["the remote's words about what it refused"],
         "kept", "kept_snapshot": what was overwritten, "job": RESTORE or null, "undo_of"}"""
)

_UNDO = """\
A ref that the restore overwrote is put back, one that it created is removed, but only
if it still holds what the restore wrote. A repository that was made for it stays.

  everref undo acme/api --plan
  everref undo acme/api

--json: as restore, with "undo_of"; with --plan: {"repo", "undo_of", "to",
        "refs": [{"name", "target", "result": "updated|removed|unchanged|skipped", "why"}],
        "default_branch": {"old", "new"} where it changes at the host, else null}"""

_VERIFY = """\
Every stored object is read and its checksum compared, the chain of manifests is
followed, and every ref is compared in a copy that git fsck has checked.

--json: {"repo", "snapshots", "parts", "bytes", "ok", "problems": ["..."],
         "damaged": [snapshot, ...], "strays": [key, ...], "seconds"}

With --due, no repo is named: every part, index, manifest and note that is due in the
rotation is read again, at once and without its rate.

--json with --due: {"bytes", "objects", "problems": ["..."], "ok"}"""

_COVERAGE = """\
Every stored byte is read again within the period of its team (30 days, unless its settings
say otherwise), and every repo is drilled within another.

--json: {"days", "total", "read", "fresh", "ratio", "oldest_at", "repos", "repos_read",
         "damaged", "drills_due"}; sizes in bytes, `fresh` is what was stored within the
        period and not read back yet"""

_DRILL = (
    WHEN
    + """

--json: {"repo", "snapshot", "refs", "bytes", "ok", "problems": ["..."],
         "findings": ["..."], "large_files_not_saved", "seconds"}, with --due one a line;
        with --all as well, and {"repos", "passed", "failed", "undone", "seconds", "bytes"} last;
        `findings` is what git fsck --strict dislikes in objects that are as their host has
        them, which is no damage"""
)

_COMPACT = """\
--json, one a line: {"repo", "merged", "parts_before", "parts_after", "bytes_written"}"""

_PRUNE = """\
Only objects that no snapshot needs are deleted, and only after --grace.

--json: {"deleted": [key, ...], "bytes", "waiting", "locked": [key, ...], "locked_until"}"""

_HOOK = """\
Paste the URL and the secret into the webhook settings of the repository at its
host. Content type: application/json. Events: pushes, and the creation and
deletion of branches and tags where they are listed separately. The secret is shown
once; at GitLab it is the signing token or, where there is no such field, the
secret token. BASE_URL is the address at which the host reaches this machine.

--json: {"repo", "forge", "url", "secret": "..." or null}, with --remove: {"repo", "removed": true}"""

_CONNECT = """\
Lists what the account can see, and adds what you choose: each repository gets a
webhook, so that every push is backed up, and its first backup is requested at once.
A running everref up does those backups, or everref sweep. The token is a personal
access token: at GitHub with the scopes repo, read:org and workflow (which only
restores of workflow files need), at GitLab with api. When it expires, run this again
with a new one. Without --everything and --only, earlier choices stay as they are.

  everref connect --forge github --token-file ~/.github-token --only 'acme/*'
  everref connect --forge gitlab --host git.example.org --token-file - --everything

--json: {"connection", "forge", "host", "login", "repositories", "kept",
         "chosen": [{"repo", "hook": "registered|reused|refused|waiting", "why"}]}"""

_CHANNEL = """\
An address of a webhook or a chat is as good as a password, so it is read from a file or from
standard input. With --add, CHANNEL is the name of the new one.

  echo ops@example.org | everref channel --add mail --to-file - ops
  everref channel ops --test

--json, one a line: {"id", "kind", "name", "shown", "off": ["..."], "quiet", "created_at", "confirmed_at",
"stopped_at", "sent_at", "failing_since", "failure"}; --add: {"channel", "key", "asked"};
--new-key: {"key"}; --test: {"answer"}"""

_CONNECTIONS = """\
--json, one a line: {"connection", "forge", "host", "login", "state": "works|reauth|ended", "why",
                     "everything", "only": ["..."], "repositories", "kept", "listed_at"}"""

_API_TOKEN = """\
It belongs to the first owner, who owns the command line's team, and may do what its
scopes say as long as that person is a member of the team.

  everref token ci --scope read --scope backup --expires 90d

--json: {"name", "token", "team", "scopes": ["..."], "expires_at": "..." or null}"""

_SSH_KEY = """\
Each team has a key of its own, made when it is first needed. Add it at the host,
for reading, then: everref backup git@git.example.org:acme/api.git
The key that a host shows at the first connection is pinned.

--json: {"public_key"}"""

_LIMITS = """\
Settings such as EVERREF_TEAM_REPOS say what holds for all teams; this changes it for one. A
team that is over a limit loses nothing, but gets no more. What waited for the limit goes on by
itself when it is raised.

--json: {"team", "limits": [{"name", "used", "most", "own"}]}; most: null where there is no limit;
used: null for pool-bytes, which each worker counts for itself"""

_RPO = """\
Without REPO it is the objective of a team, which counts for each repository that has
none of its own. A repository is checked at least twice within its objective, and is
named on home, in messages and in /metrics when more could be lost of it.

  everref rpo --set 4h
  everref rpo acme/api --set 15m

--json: {"team", "repo": NAME or null, "rpo", "own": whether the repo has one of its own,
"outside": [names]}"""

_PING = """\
A dead man's switch: a worker pings the address every 5 minutes, but only while every
repository is within its objective, a worker runs, the vault answers, and the last drill
and verification are recent. The monitor raises the alarm when it hears nothing, also
when this machine is gone. Without options, a ping is sent now, or the reasons are
printed why none is; it then exits with 1.

  everref ping --url-file ~/.ping-url
  everref ping

--json: {"team", "host", "style", "drill_days", "read_days", "reasons": [...],
"pinged_at", "asked_at", "answer", "failing_since"}, with --remove: {"team", "removed"}"""

_SIGN_IN = """\
The link works once, within an hour. The person who can run this owns the data, and
can let anybody in, such as somebody who forgot their password and sets another.

Nobody has proved that an e-mail address is theirs: with EMAIL, read who that is
before you send the link. Using it ends older tokens and other sessions, except
those that are ticked.

--json: {"sign_in", "expires_at", "person": {"name", "email", "email_proved",
"created_at", "teams": [...], "identities": [...]} or null}"""

_ROTATE = """\
1. Put a new key first in SECRET_KEYS and restart every process.
2. Run everref rotate-keys. It can be stopped and run again, while everything else runs.
3. Once it says that the older keys are not needed, remove them.

It exports the state too, as an older export opens only with the key that encrypted it.

It exits with 4 while something still needs a key that is not the newest.

--json: {"resealed", "keys": [{"id", "newest", "here", "sealed", "state"}], "problems": ["..."]}"""

_SWEEP = """\
A repo is archived when its host says that it no longer exists; that is not a failure.

--json, one a line: {"repo", "snapshot", "taken_at", "new", "archived",
                     "error": {"class", "origin", "message", "retry"} or null}"""

_REBUILD = """\
The vault is the truth; the database is its index. Run it with an empty database
after a loss: repos, snapshots, refs and their history come back, and the newest
state that `everref export` or a worker stored: teams, people, connections and
choices. That needs the SECRET_KEYS that encrypted it; the history needs none.

--json, one a line: {"repo", "snapshots", "added", "notes", "was"}, and at the end,
where the vault has a state, {"state", "added": {TABLE: rows}, "unread": [why, ...]}"""

_MIGRATE = """\
With --wait it can be started when the machine boots, before PostgreSQL answers.

--json: {"applied": [file, ...]}"""

_NOTICES = """\
Messages are kept for 90 days: what began and ended, what happened, where each went and what
became of it. everref channel CHANNEL --test sends one at once.

--json, one a line, newest first: {"id", "kind", "urgent", "subject", "lines", "at", "team", "repos",
        "many", "url", "facts", "to"}; to: [{"channel", "kind", "shown", "state", "due_at",
        "tries", "tried_at", "answer", "in_digest"}]; state: sent, waiting or failed"""

_DOCTOR = """\
--json, one a line: {"what", "value", "ok", "advice"}"""

_EVIDENCE_VERIFY = """\
It needs no database, no vault and no data: only the files and the public keys. Get
the keys once, and keep them apart from the evidence:
  curl -o keys.json https://everref.example.org/.well-known/everref-evidence.json
  everref evidence verify statement.json --key keys.json

It exits with 1 if any file does not hold, and says which and why: a changed byte, a key
that is not among those given, or one that was not in use at that time.

A time stamp is checked together with the file that it is about:
  everref evidence verify checkpoint.json checkpoint.tsr --key keys.json --tsa CERTS.pem

--json, one a line: {"file", "kind", "at", "holds": true, "says"} or
                    {"file", "holds": false, "why"}"""

_EVIDENCE_LIST = """\
Each drill and each verification signs one. The name is that of the file in the vault. Without
REPO: what was read back of all repositories of the team, one for each day that is over.

--json, one a line: {"kind", "snapshot", "at", "passed", "name", "key", "sha256"}; without
REPO: {"kind", "day", "at", "passed", "key", "sha256"}"""

_EVIDENCE_EXPORT = """\
Statements, the newest checkpoint, the proofs that the histories are in it, the public keys,
and a README that says how to check all of it with stock tools. Without REPO, for the whole team.

  everref evidence export acme/api --to api-evidence.zip

--json: {"to", "files", "bytes"}"""

_EVIDENCE_CHECK = """\
A checkpoint is signed once a day by a worker, or by `everref sweep`. It exits with 1 if a
history, an audit log or a checkpoint was rewritten since, and names each.

--json: {"checkpoints", "heads", "problems": ["..."], "ok"}"""

_EVIDENCE_KEYS = """\
The same that /.well-known/everref-evidence.json has: a JSON object with or without --json."""

_EVIDENCE_ROTATE = """\
The new key is introduced by a statement that the old one signs. The old one holds for a day
longer, and what it signed holds for ever.

--json: {"key_id", "from", "previous"}"""

_COMPLETION = """\
  bash:  everref completion bash > ~/.local/share/bash-completion/completions/everref
  zsh:   everref completion zsh > a directory of $fpath, as _everref
  tcsh:  everref completion tcsh > ~/.everref.tcsh, and source it in ~/.tcshrc"""

"""`everref vault`: what concerns the store of the vault, and not the repos in it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from mirror.cli.commands import copies

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from mirror.cli.call import Call
    from mirror.cli.render import Eye
    from mirror.core.storage_classes import Rule

HELP = "look after the store of the vault"
EPILOG = """\
examples:
  everref vault list
  everref vault lifecycle
  STORAGE_CLASS_AFTER=30d:STANDARD_IA everref vault lifecycle --set"""

_LIFECYCLE: Final = """\
STORAGE_CLASS_AFTER says which objects move where: 30d:STANDARD_IA,180d:GLACIER_IR. The store
moves them itself, in place, by a rule of the bucket; what has 128 KiB or less stays. Stores
ask for each GB read from these classes, and readings read everything within their period. Without
--set nothing is written: have whoever looks after the bucket add the rule. --set writes it
beside the rules of others, and removes ours where STORAGE_CLASS_AFTER is not set; the key
of AWS_* needs s3:GetLifecycleConfiguration and s3:PutLifecycleConfiguration for that.

--json: {"bucket", "rule", "is_there", "archiving"}; `rule` as PutBucketLifecycleConfiguration
        takes it, `is_there` null where the key may not read the rules, `archiving` the ids of
        rules of others that move objects to where they cannot be read at once"""


def _lifecycle_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", action="store_true", help="write the rule into the bucket, or remove it")


SUBCOMMANDS: Final[Mapping[str, tuple[str, str, Callable[[argparse.ArgumentParser], None]]]] = {
    "lifecycle": (
        "show or set the rule by which old objects move to another storage class",
        _LIFECYCLE,
        _lifecycle_arguments,
    ),
    **copies.SUBCOMMANDS,
}


async def run(call: Call) -> int:
    """Carry out what follows `everref vault`."""
    return await _RUN[call.args.vault](call)


async def lifecycle(call: Call) -> int:
    """Show the rule that STORAGE_CLASS_AFTER needs and whether the bucket has it, or write it."""
    from mirror.core import storage_classes
    from mirror.core.errors import BadCredentials
    from mirror.vault import lifecycle

    steps = call.settings.storage_class_after
    async with lifecycle.opened(call.settings.vault_url) as bucket:
        wanted, where = bucket.wanted(steps), bucket.describe()
        if call.args.set:
            await bucket.write(steps)
        there: bool | None = None
        archiving: Sequence[str] = ()
        try:
            rules = await bucket.rules()
        except BadCredentials:
            if call.args.set:
                raise
        else:
            there, archiving = storage_classes.is_there(rules, wanted), storage_classes.archiving(rules)
    call.out.result(
        partial(_lines, where, wanted, there, archiving), partial(_shape, where, wanted, there, archiving)
    )
    return 0


def _shape(where: str, wanted: Rule | None, there: bool | None, archiving: Sequence[str]) -> dict[str, Any]:
    return {"bucket": where, "rule": wanted, "is_there": there, "archiving": list(archiving)}


def _lines(where: str, wanted: Rule | None, there: bool | None, archiving: Sequence[str], eye: Eye) -> str:
    import json

    from mirror.core.words import clean

    says = {
        (True, True): f"{where} has the rule of STORAGE_CLASS_AFTER",
        (True, False): f"{where} does not have this rule; add it there, or run everref vault lifecycle --set",
        (True, None): f"this key may not read the rules of {where}; see there whether it has this one",
        (False, True): f"STORAGE_CLASS_AFTER is not set, and {where} has no rule of Everref's",
        (
            False,
            False,
        ): f"STORAGE_CLASS_AFTER is not set; everref vault lifecycle --set removes its rule from {where}",
        (False, None): f"STORAGE_CLASS_AFTER is not set; this key may not read the rules of {where}",
    }[wanted is not None, there]
    lines = [clean(says)]
    if wanted is not None and not there:
        lines.append(json.dumps({"Rules": [wanted]}, indent=2))
    lines += [
        eye.paint(
            clean(f"{one} moves objects to an archive, from which no restore reads them; remove it"), "bad"
        )
        for one in archiving
    ]
    return "\n".join(lines)


_RUN: Final[Mapping[str, Callable[[Call], Coroutine[Any, Any, int]]]] = {
    "lifecycle": lifecycle,
    **dict.fromkeys(copies.SUBCOMMANDS, copies.run),
}

"""A team's encryption keys: who can open its backups, the proof of it, and the sheet to print."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final
from uuid import UUID

from starlette.responses import Response

from mirror.core import words
from mirror.core.errors import EverrefError, NotFound, Refused, UsageError
from mirror.core.formats import recovery_words
from mirror.core.rules.keeping import recovery_keys as rules
from mirror.people import keys, pending
from mirror.store.people.keys import RecoveryKey
from mirror.web import once, templating
from mirror.web.dispatch import Endpoint, Needs, RequestContext


async def page(
    context: RequestContext,
    error: EverrefError | None = None,
    typed: Mapping[str, str] = MappingProxyType({}),
) -> Response:
    """The team's keys, whether it seals, and the forms that change it."""
    return context.render(
        "keys.html",
        200 if error is None else 422,
        found=await keys.standing(context.services, context.of_team()),
        error=error,
        wrong=templating.wrong(error),
        typed=typed,
    )


async def add(context: RequestContext) -> Response:
    """Add a recovery key; the page that proves it follows."""
    form = await context.form()
    typed, name = str(form.get("recipient", "")), str(form.get("name", ""))
    try:
        made = await keys.add(context.services, context.by(), context.of_team(), typed, name)
    except (UsageError, Refused) as error:
        kept = {} if rules.is_private(f"{typed}\n{name}") else {"recipient": typed, "name": name}
        return await page(context, error, kept)
    return context.redirect(_of(context, made.id), f"{made.name} is added. Prove that it opens a sample.")


async def one(context: RequestContext, error: EverrefError | None = None) -> Response:
    """A recovery key, and how to prove it."""
    key = await _key(context)
    sample = b""
    if key.proved_at is None and key.kind is not rules.Kind.SHEET:
        sample = await keys.challenge(context.services, context.of_team(), key.id)
    return context.render(
        "key.html",
        200 if error is None else 422,
        key=key,
        sample=sample.decode(),
        error=error,
        wrong=templating.wrong(error),
        lines=recovery_words.LINES,
    )


async def sample(context: RequestContext) -> Response:
    """The sample of a key, as a file."""
    key = await _key(context)
    found = await keys.challenge(context.services, context.of_team(), key.id)
    return Response(
        found,
        media_type="text/plain",
        headers={"content-disposition": 'attachment; filename="everref-sample.age"'},
    )


async def prove(context: RequestContext) -> Response:
    """Check what the sample says, or the words of a sheet."""
    said = str((await context.form()).get("answer", ""))
    key = await _key(context)
    try:
        await keys.prove(context.services, context.by(), context.of_team(), key.id, said)
    except (UsageError, Refused) as error:
        return await one(context, error)
    return context.redirect(_base(context), f"{key.name} is proved: it opens what is sealed from now on.")


async def remove(context: RequestContext) -> Response:
    """Remove a key that was never proved, or lately; ask for the removal of another."""
    key = await _key(context)
    try:
        asked = await keys.remove(context.services, context.by(), context.of_team(), key.id)
    except (UsageError, Refused) as error:
        return await page(context, error)
    if asked is None:
        since = "Nothing was ever" if key.proved_at is None else "Nothing more is"
        return context.redirect(_base(context), f"{key.name} is removed. {since} sealed to it.")
    return context.redirect(_base(context), words.sentence(pending.told(asked, "asked")))


async def ask_export(context: RequestContext) -> Response:
    """Ask that the identities may be downloaded."""
    try:
        asked = await keys.ask_export(context.services, context.by(), context.of_team())
    except (UsageError, Refused) as error:
        return await page(context, error)
    return context.redirect(_base(context), words.sentence(pending.told(asked, "asked")))


async def export(context: RequestContext) -> Response:
    """The identities, on the day on which that is allowed."""
    try:
        found = await keys.exported(context.services, context.by(), context.of_team())
    except Refused as error:
        return await page(context, error)
    name = f"everref-keys-{context.of_team().name}.txt"
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(found, media_type="text/plain", headers=headers)


async def make_sheet(context: RequestContext) -> Response:
    """Make the key of a sheet, and show it once."""
    try:
        made = await keys.make_sheet(context.services, context.by(), context.of_team())
    except Refused as error:
        return await page(context, error)
    shown = {"identity": made.identity, "id": str(made.key.id)}
    return once.hand_over(context, f"{_base(context)}/sheet", shown)


async def sheet(context: RequestContext) -> Response:
    """The sheet to print, the one time that its key is here."""
    shown = await once.taken(context)
    key, identity = None, shown.get("identity", "")
    if identity:
        key = await keys.get(context.services, context.of_team(), UUID(shown["id"]))
    answer = context.render(
        "sheet.html",
        key=key,
        identity=identity,
        lines=recovery_words.written(identity) if identity else (),
        vault=context.services.vault.describe(),
        origin=context.outside.origin,
    )
    return once.forget(context, answer) if shown else answer


async def seal(context: RequestContext) -> Response:
    """Switch sealing on, or off."""
    is_on = (await context.form()).get("on") == "1"
    try:
        if is_on:
            await keys.switch_on(context.services, context.by(), context.of_team())
            return context.redirect(_base(context), "New backups are sealed from now on.")
        await keys.switch_off(context.services, context.by(), context.of_team())
    except (UsageError, Refused) as error:
        return await page(context, error)
    said = "New backups are stored unencrypted from now on. Those that are sealed stay so, and readable."
    return context.redirect(_base(context), said)


async def rotate(context: RequestContext) -> Response:
    """Make a new identity for the team."""
    try:
        await keys.rotate(context.services, context.by(), context.of_team())
    except (UsageError, Refused) as error:
        return await page(context, error)
    return context.redirect(_base(context), "New backups are sealed to the new key; the old one still opens.")


async def _key(context: RequestContext) -> RecoveryKey:
    try:
        id = UUID(str(context.path["key"]))
    except ValueError:
        raise NotFound("there is no such recovery key") from None
    return await keys.get(context.services, context.of_team(), id)


def _base(context: RequestContext) -> str:
    return f"/{context.of_team().name}/-/settings/keys"


def _of(context: RequestContext, id: UUID) -> str:
    return f"{_base(context)}/{id}"


_KEYS: Final = "/{team}/-/settings/keys"

ENDPOINTS: Final[Sequence[Endpoint]] = (
    Endpoint("GET", _KEYS, page, Needs.VIEWER),
    Endpoint("POST", _KEYS, add, Needs.OWNER, sure=True),
    Endpoint("POST", f"{_KEYS}/seal", seal, Needs.OWNER, sure=True),
    Endpoint("POST", f"{_KEYS}/rotate", rotate, Needs.OWNER, sure=True),
    Endpoint("POST", f"{_KEYS}/sheet", make_sheet, Needs.OWNER, sure=True),
    Endpoint("GET", f"{_KEYS}/sheet", sheet, Needs.OWNER),
    Endpoint("POST", f"{_KEYS}/export", ask_export, Needs.OWNER, sure=True),
    Endpoint("POST", f"{_KEYS}/download", export, Needs.OWNER, sure=True),
    Endpoint("GET", f"{_KEYS}/{{key}}", one, Needs.OWNER),
    Endpoint("GET", f"{_KEYS}/{{key}}/sample.age", sample, Needs.OWNER),
    Endpoint("POST", f"{_KEYS}/{{key}}/prove", prove, Needs.OWNER, sure=True),
    Endpoint("POST", f"{_KEYS}/{{key}}/remove", remove, Needs.OWNER, sure=True),
)

"""Where people are told: the channels of a team, of a person, and of the installation; each has this page.

The links that are mailed lead here too: to confirm an address, and to end its mails; neither needs a sign-in.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from starlette.responses import Response

from mirror.core.channels import NotDelivered
from mirror.core.errors import EverrefError, NotFound, OverLimit, Refused, TooOften, UsageError
from mirror.core.messages import KINDS
from mirror.core.rules.roles import Role
from mirror.core.words import sentence
from mirror.people import channels as flow
from mirror.people.channels import Whose
from mirror.store.people import teams
from mirror.web import once, templating
from mirror.web.compression import as_it_is
from mirror.web.dispatch import Endpoint, Needs, RequestContext

TEAM: Final = "/{team}/-/settings/channels"
PERSON: Final = "/account/channels"
INSTALLATION: Final = "/status/channels"
BASES: Final = ((TEAM, Needs.ADMIN), (PERSON, Needs.PERSON), (INSTALLATION, Needs.PERSON))


async def page(
    context: RequestContext,
    error: EverrefError | None = None,
    typed: Mapping[str, Any] = MappingProxyType({}),
) -> Response:
    """The channels with their state, and forms for them; and once, the key of a new webhook.

    `typed`: into the form of the `channel` that it names, or into the one for a new channel.
    """
    whose, services = await _whose(context), context.services
    shown = await once.taken(context)
    email = context.owner().email if whose.person else None
    found = await flow.listed(services, whose)
    answer = context.render(
        "channels.html",
        200 if error is None else 429 if isinstance(error, OverLimit | TooOften) else 422,
        error=error,
        wrong=templating.wrong(error),
        typed=typed,
        base=_base(context),
        whose=whose,
        channels=found,
        kinds=KINDS.values(),
        examples=flow.EXAMPLES,
        mail=services.settings.smtp is not None,
        own=email if email and all(one.shown != email for one in found) else None,
        zone=context.zone.key,
        shown=shown,
    )
    return once.forget(context, answer) if shown else answer


async def add(context: RequestContext) -> Response:
    """Add a channel; the key of a webhook is shown once."""
    form, whose = await context.form(), await _whose(context)
    typed = {name: str(form.get(name, "")) for name in ("kind", "to", "name")}
    try:
        added = await flow.add(
            context.services, context.by(), whose, typed["kind"], typed["to"], typed["name"].strip()
        )
    except (UsageError, Refused, OverLimit, TooOften) as error:
        return await page(
            context, error, {name: typed[name] for name in ("kind", "name")} | _told_again(typed)
        )
    if added.key:
        return once.hand_over(context, _base(context), {"key": added.key, "name": added.channel.name})
    if added.asked:
        return context.redirect(_base(context), sentence(added.asked))
    return context.redirect(_base(context), f"Messages are now sent to {added.channel.name}.")


def _told_again(typed: Mapping[str, str]) -> dict[str, str]:
    """The address that was typed, to be put right; only that of a mail holds no secret."""
    return {"to": typed["to"]} if typed["kind"] == "mail" else {}


async def change(context: RequestContext) -> Response:
    """Set a channel's name, the kinds that it gets and its quiet hours."""
    form = await context.form()
    chosen = _channel(form.get("channel"))
    typed = {name: str(form.get(name, "")).strip() for name in ("name", "from", "to", "zone")}
    wanted = {str(one) for one in form.getlist("on")}
    try:
        changed = await flow.change(
            context.services,
            context.by(),
            await _whose(context),
            chosen,
            name=typed["name"],
            off=KINDS.keys() - wanted,
            quiet=(typed["from"], typed["to"], typed["zone"]),
        )
    except (UsageError, Refused) as error:
        return await page(context, error, {**typed, "channel": chosen, "on": wanted})
    return context.redirect(_base(context), f"{changed.name} is changed.")


async def test(context: RequestContext) -> Response:
    """Send a message at once, and show what the other side answers."""
    whose, chosen = await _whose(context), _channel((await context.form()).get("channel"))
    channel = await flow.theirs(context.services, whose, chosen)
    try:
        answer = await flow.test(context.services, context.by(), whose, chosen)
    except NotDelivered as error:
        why = str(error).rstrip(".")  # some are words of the other side, and end by themselves
        return context.redirect(_base(context), warned=f"The test to {channel.name} failed: {why}.")
    except (UsageError, TooOften) as error:
        return await page(context, error)
    return context.redirect(_base(context), f"The test to {channel.name} was sent. The answer: {answer}")


async def ask(context: RequestContext) -> Response:
    """Mail the link that confirms an address once more."""
    whose, chosen = await _whose(context), _channel((await context.form()).get("channel"))
    channel = await flow.theirs(context.services, whose, chosen)
    try:
        asked = await flow.ask(context.services, context.by(), whose, channel)
    except (UsageError, TooOften) as error:
        return await page(context, error)
    return context.redirect(_base(context), sentence(asked))


async def rotate(context: RequestContext) -> Response:
    """A new key for a webhook, shown once."""
    whose, chosen = await _whose(context), _channel((await context.form()).get("channel"))
    channel = await flow.theirs(context.services, whose, chosen)
    key = await flow.rotate(context.services, context.by(), whose, chosen)
    return once.hand_over(context, _base(context), {"key": key, "name": channel.name})


async def remove(context: RequestContext) -> Response:
    """Send nothing there any more."""
    chosen = _channel((await context.form()).get("channel"))
    gone = await flow.remove(context.services, context.by(), await _whose(context), chosen)
    return context.redirect(_base(context), f"{gone.name} is removed.")


async def confirm_page(context: RequestContext) -> Response:
    """Ask whether an address wants messages: only the button says so, as link previews press none."""
    channel = await flow.confirmable(context.services, str(context.path["raw"]))
    return as_it_is(context.render("confirm.html", channel=channel, raw=context.path["raw"], done=False))


async def confirm(context: RequestContext) -> Response:
    """The address wants messages."""
    await context.form()  # nothing of it counts, but it is judged as every form is
    channel = await flow.confirm(context.services, str(context.path["raw"]))
    return as_it_is(context.render("confirm.html", channel=channel, raw=context.path["raw"], done=True))


async def stop_page(context: RequestContext) -> Response:
    """Ask whether the mails are to end."""
    channel = await flow.stoppable(context.services, str(context.path["raw"]))
    return as_it_is(context.render("unsubscribe.html", channel=channel, raw=context.path["raw"], done=False))


async def stop(context: RequestContext) -> Response:
    """End the mails: by the button, or by a mail program's own (RFC 8058), which has no cookie."""
    await context.form()  # nothing of it counts, but it is judged as every form is
    channel = await flow.stop(context.services, str(context.path["raw"]))
    return as_it_is(context.render("unsubscribe.html", channel=channel, raw=context.path["raw"], done=True))


async def _whose(context: RequestContext) -> Whose:
    """Whose channels the path means. Raises NotFound where they are not for this person."""
    if context.team is not None:
        return Whose(team=context.of_team())
    if context.endpoint.path.startswith(PERSON):
        return Whose(person=context.owner())
    if not await runs_it(context):
        raise NotFound("this page does not exist, or you have no access to it")
    return Whose()


async def runs_it(context: RequestContext) -> bool:
    """Whether this is whoever runs Everref: an owner of the command line's team."""
    if context.person is None:
        return False
    db = context.services.db
    return await teams.role_of(db, await teams.default(db), context.person.id) is Role.OWNER


def _base(context: RequestContext) -> str:
    if context.team is not None:
        return TEAM.format(team=context.of_team().name)
    return PERSON if context.endpoint.path.startswith(PERSON) else INSTALLATION


def _channel(given: object) -> UUID:
    try:
        return UUID(str(given))
    except ValueError:
        raise NotFound("there is no such channel") from None


ENDPOINTS: Final[Sequence[Endpoint]] = (
    Endpoint("GET", "/confirm/{raw}", confirm_page, Needs.NOTHING),
    Endpoint("POST", "/confirm/{raw}", confirm, Needs.NOTHING),
    Endpoint("GET", "/unsubscribe/{raw}", stop_page, Needs.NOTHING),
    Endpoint("POST", "/unsubscribe/{raw}", stop, Needs.NOTHING, foreign=True),
    *(
        endpoint
        for base, needs in BASES
        for endpoint in (
            Endpoint("GET", base, page, needs),
            Endpoint("POST", base, add, needs, sure=True),
            Endpoint("POST", f"{base}/change", change, needs),
            Endpoint("POST", f"{base}/test", test, needs),
            Endpoint("POST", f"{base}/ask", ask, needs),
            Endpoint("POST", f"{base}/key", rotate, needs, sure=True),
            Endpoint("POST", f"{base}/remove", remove, needs),
        )
    ),
)

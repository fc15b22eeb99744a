"""A team's encryption keys."""

from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta

from mirror.core.rules.keeping import recovery_keys as rules
from mirror.people import keys
from mirror.shapes.keys import KeyRemoved, KeySample, RecoveryKeyShown, TeamKeys
from mirror.web.api.call import Body, Call, call, uuid_of
from mirror.web.api.shapes import Nothing
from mirror.web.api.team import TEAM
from mirror.web.dispatch import Needs, RequestContext


class NewRecoveryKey(Body, frozen=True, kw_only=True):
    """The public half of somebody's key."""

    recipient: Annotated[
        str, Meta(min_length=1, max_length=8000, description="age1..., ssh-ed25519, ssh-rsa")
    ]
    name: Annotated[str, Meta(max_length=rules.NAME, description="whose key it is")] = ""


class KeyProof(Body, frozen=True, kw_only=True):
    """What shows that somebody has the private half."""

    answer: Annotated[str, Meta(min_length=1, max_length=4000, description="what its sample says")]


class SealingWanted(Body, frozen=True, kw_only=True):
    """Whether new objects are sealed."""

    sealed: bool


async def list_keys(context: RequestContext) -> TeamKeys:
    """To whom the team's backups are sealed, and since when. No secret is shown."""
    return TeamKeys.of(await keys.standing(context.services, context.of_team()))


async def add_key(context: RequestContext, body: NewRecoveryKey) -> RecoveryKeyShown:
    """Add a recovery key; nothing is sealed to it before it is proved."""
    made = await keys.add(context.services, context.by(), context.of_team(), body.recipient, body.name)
    return RecoveryKeyShown.of(made)


async def get_sample(context: RequestContext) -> KeySample:
    """A sample that is sealed to this key: whoever can tell what it says has the private half."""
    id = uuid_of(context, "key", "recovery key")
    return KeySample(sample=(await keys.challenge(context.services, context.of_team(), id)).decode())


async def prove_key(context: RequestContext, body: KeyProof) -> RecoveryKeyShown:
    """Say what the sample says; new objects are sealed to the key from then on."""
    id = uuid_of(context, "key", "recovery key")
    done = await keys.prove(context.services, context.by(), context.of_team(), id, body.answer)
    return RecoveryKeyShown.of(done)


async def remove_key(context: RequestContext) -> KeyRemoved:
    """Remove a key that was never proved, or ask for the removal of one that is."""
    id = uuid_of(context, "key", "recovery key")
    asked = await keys.remove(context.services, context.by(), context.of_team(), id)
    return KeyRemoved(removed=asked is None)


async def set_sealing(context: RequestContext, body: SealingWanted) -> TeamKeys:
    """Seal new objects, or store them as they are; needs a proved recovery key."""
    switch = keys.switch_on if body.sealed else keys.switch_off
    await switch(context.services, context.by(), context.of_team())
    return await list_keys(context)


async def rotate_key(context: RequestContext, body: Nothing) -> TeamKeys:
    """Seal to a new key of the team's own from now on; the old one still opens what was sealed to it."""
    await keys.rotate(context.services, context.by(), context.of_team())
    return await list_keys(context)


_KEY: Final = f"{TEAM}/keys/{{key}}"

CALLS: Final[Sequence[Call]] = (
    call("GET", f"{TEAM}/keys", list_keys, Needs.VIEWER),
    call("POST", f"{TEAM}/keys", add_key, Needs.OWNER, "account", status=201, sure=True),
    call("PUT", f"{TEAM}/sealing", set_sealing, Needs.OWNER, "account", sure=True),
    call("POST", f"{TEAM}/keys/rotate", rotate_key, Needs.OWNER, "account", sure=True),
    call("GET", f"{_KEY}/sample", get_sample, Needs.OWNER, "account"),
    call("POST", f"{_KEY}/prove", prove_key, Needs.OWNER, "account", sure=True),
    call("DELETE", _KEY, remove_key, Needs.OWNER, "account", sure=True),
)

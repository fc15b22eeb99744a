"""Settings of a bucket that would undo Object Lock or show backups to everybody, judged by pure rules.

Who calls: vault/s3. A question that a store does not know, or does not answer to this key, finds nothing.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from mirror.core.errors import BadCredentials, Refused
from mirror.core.locks import Hazard, Locking, LockMode
from mirror.core.words import count
from mirror.vault.bucket import Bucket

_EVERYBODY: Final = ("/groups/global/AllUsers", "/groups/global/AuthenticatedUsers")
_ARCHIVES: Final = ("GLACIER", "DEEP_ARCHIVE")


async def look(bucket: Bucket, prefix: str, locking: Locking | None) -> list[Hazard]:
    """Everything that is wrong with the settings of a bucket whose objects begin with `prefix`."""
    return [
        *of_versioning(await _asked(bucket, "get_bucket_versioning")),
        *of_default(await _asked(bucket, "get_object_lock_configuration"), locking),
        *of_lifecycle(await _asked(bucket, "get_bucket_lifecycle_configuration"), prefix),
        *of_grants(await _asked(bucket, "get_bucket_acl")),
        *of_policy(await _asked(bucket, "get_bucket_policy")),
    ]


async def _asked(bucket: Bucket, question: str) -> Mapping[str, Any]:
    try:
        answer: Mapping[str, Any] = await bucket.call(question)
    except (Refused, BadCredentials):  # there is no such setting, or it may not be read
        return {}
    return answer


def of_versioning(answer: Mapping[str, Any]) -> Iterator[Hazard]:
    if answer.get("Status") == "Suspended":
        yield Hazard("versioning is suspended, so that an overwritten object is lost", "enable versioning")


def of_default(answer: Mapping[str, Any], locking: Locking | None) -> Iterator[Hazard]:
    rule = answer.get("ObjectLockConfiguration", {}).get("Rule", {}).get("DefaultRetention", {})
    if not rule or locking is None:
        return
    lasts = timedelta(days=rule.get("Days") or 365 * rule.get("Years", 0))
    weaker = locking.mode is LockMode.COMPLIANCE and rule.get("Mode") == "GOVERNANCE"
    if lasts < locking.period or weaker:
        yield Hazard(
            f"the bucket's default lock is {str(rule.get('Mode')).lower()}:{lasts.days}d,"
            f" less than the {locking} that is asked for",
            "make the default of the bucket the same as VAULT_LOCK, or remove it",
        )


def of_lifecycle(answer: Mapping[str, Any], prefix: str) -> Iterator[Hazard]:
    for rule in answer.get("Rules", ()):
        if rule.get("Status") != "Enabled" or not _concerns(_prefix_of(rule), prefix):
            continue
        name = f"the lifecycle rule {rule.get('ID') or 'without a name'}"
        expiration, later = rule.get("Expiration", {}), rule.get("NoncurrentVersionExpiration", {})
        for setting, words in ((expiration, ""), (later, " once they are hidden or overwritten")):
            if setting.get("Days") or setting.get("NoncurrentDays") or setting.get("Date"):
                when = setting.get("Days") or setting.get("NoncurrentDays")
                after = f"after {count(when, 'day')}" if when else f"on {setting['Date']:%Y-%m-%d}"
                yield Hazard(f"{name} deletes objects {after}{words}", "remove it, or limit it to exports/")
        for step in rule.get("Transitions", ()):
            if step.get("StorageClass") in _ARCHIVES:
                yield Hazard(
                    f"{name} moves objects to {step['StorageClass']}, where they cannot be read at once",
                    "remove it: every part must be readable for a restore",
                )


def _prefix_of(rule: Mapping[str, Any]) -> str:
    chosen = rule.get("Filter", {})
    return str(rule.get("Prefix") or chosen.get("Prefix") or chosen.get("And", {}).get("Prefix") or "")


def _concerns(rule: str, prefix: str) -> bool:
    """Whether a rule for keys that begin so concerns objects of a history."""
    if rule.startswith((f"{prefix}exports/", f"{prefix}.everref-probe-")):
        return False
    return rule.startswith(prefix) or prefix.startswith(rule)


def of_grants(answer: Mapping[str, Any]) -> Iterator[Hazard]:
    if any(
        str(one.get("Grantee", {}).get("URI", "")).endswith(_EVERYBODY) for one in answer.get("Grants", ())
    ):
        yield Hazard(
            "its access list lets everybody in", "remove the grants to AllUsers and AuthenticatedUsers"
        )


def of_policy(answer: Mapping[str, Any]) -> Iterator[Hazard]:
    try:
        policy = json.loads(answer.get("Policy", "{}"))
    except ValueError:
        return
    statements = policy.get("Statement", []) if isinstance(policy, dict) else []
    for one in statements if isinstance(statements, list) else [statements]:
        if one.get("Effect") == "Allow" and not one.get("Condition") and _is_anybody(one.get("Principal")):
            yield Hazard("its policy lets everybody in", "remove the statement whose Principal is *")
            return


def _is_anybody(principal: Any) -> bool:
    values: Sequence[Any] = list(principal.values()) if isinstance(principal, dict) else [principal]
    return any(one == "*" or isinstance(one, list) and "*" in one for one in values)

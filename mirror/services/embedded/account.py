"""The user that the servers run as: PostgreSQL refuses root, so under root they run as another user.

Used by the keeper, between fork and exec, with nothing but the standard library.
"""

import ctypes
import os
import pwd
import signal
from dataclasses import dataclass
from pathlib import Path

BORROWED = ("postgres", "nobody")  # the user for a new data directory under root; the first that exists
# linux/prctl.h, linux/capability.h, linux/securebits.h
PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_SET_SECUREBITS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 1, 8, 28, 47, 2
SECBIT_NO_SETUID_FIXUP = 4
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2
CAPABILITY_VERSION_3 = 0x20080522


@dataclass(frozen=True, slots=True)
class Account:
    """A user for the servers, and the capability that it needs to reach their files, if any."""

    uid: int
    gid: int
    capability: int | None  # None: the mode bits let it through


def for_servers(cluster: Path, data: Path, programs: Path) -> Account | None:
    """The user that the servers of `cluster` run as; None: the current one.

    The owner of the cluster, or of the data, if that is not root; else a borrowed user.
    Raises PermissionError if that user cannot reach the files.
    """
    if os.geteuid() != 0:
        return None
    entry = cluster if cluster.exists() else data
    owner = entry.stat()
    uid, gid = owner.st_uid, owner.st_gid
    if uid == 0:
        user = _borrowed()
        uid, gid = user.pw_uid, user.pw_gid
    if _may_enter(data, uid) and _may_enter(programs, uid):
        return Account(uid, gid, None)
    for capability in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE):
        if _permitted() >> capability & 1:
            return Account(uid, gid, capability)
    raise PermissionError(
        f"PostgreSQL does not run as root, and user {uid} may not enter {data};"
        " choose a directory that everybody may enter, such as one under /var/lib"
    )


def become(identity: Account | None, death_signal: signal.Signals, parent: int) -> None:
    """Turn a forked child into that user, signalled when `parent` dies. To be called before exec."""
    libc = ctypes.CDLL(None, use_errno=True)
    if identity is not None:
        if identity.capability is not None:
            _check(libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))
            # Else access(2), which PostgreSQL asks about its own programs, ignores capabilities.
            _check(libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0))
        os.setgroups([])
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
        if identity.capability is not None:
            bit = 1 << identity.capability
            header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
            _check(libc.capset(header, (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)))
            _check(libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, identity.capability, 0, 0))
    # After the change of user, which clears it: prctl(2).
    _check(libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0))
    if os.getppid() != parent:
        os._exit(1)


def _borrowed() -> pwd.struct_passwd:
    for name in BORROWED:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise PermissionError("PostgreSQL does not run as root, and there is no user `nobody` to borrow")


def _may_enter(path: Path, uid: int) -> bool:
    """Whether the mode bits let that uid pass every directory down to `path`."""
    for directory in (path, *path.parents):
        status = directory.stat()
        if not status.st_mode & (0o100 if status.st_uid == uid else 0o001):
            return False
    return True


def _permitted() -> int:
    """Our permitted capabilities as a bit set: proc_pid_status(5)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapPrm:"):
            return int(line.split()[1], 16)
    return 0


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

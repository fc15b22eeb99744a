"""The fixtures of the real parts, for every test: one line for each module of tests/parts that has some.

And the order of the files: those that take the longest come first, so that no core waits for them at the end.
"""

import signal

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = [
    "tests.parts.repos",  # first: the others import it
    "tests.parts.everref",
    "tests.parts.githttp",
    "tests.parts.packs",
    "tests.parts.postgres",
    "tests.parts.redis",
    "tests.parts.s3",
    "tests.parts.sshd",
    "tests.parts.forges.serve",  # last: it imports others
    "tests.parts.web",
    "tests.parts.connected",
    "tests.parts.whole",
    "tests.parts.mail",
    "tests.parts.receiver",
    "tests.parts.browser",
]

# A shell that starts the tests in the background has them ignore these, which what they start would inherit.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

# No test fails because a machine is slow. In CI, hypothesis has a profile of its own, with the same examples.
_settings = settings.get_profile(settings.get_current_profile_name())
settings.register_profile("everref", _settings, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("everref")

_LONGEST = (
    *("up", "cli", "crash", "openapi", "whole", "whole_forges", "pages_restore", "whole_faults", "reseal"),
    *(
        "documents",
        "tasks_rescue",
        "retention",
        "moving",
        "tasks_connect",
        "sync",
        "heal",
        "review",
        "browser",
    ),
    *("bombs", "embedded", "rebuild", "rescue", "authorisation", "gateways", "model", "cli_connect"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take the longest first; `--no-loadscope-reorder` leaves them so."""
    place = {f"test_{name}": number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))

"""The fixtures of the real parts, for every test: one line for each module of tests/parts that has some."""

import signal

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

"""The fixtures of the real parts, for every test: one line for each module of tests/parts that has some."""

pytest_plugins = [
    "tests.parts.repos",  # first: the others import it
    "tests.parts.everref",
    "tests.parts.githttp",
    "tests.parts.packs",
    "tests.parts.postgres",
    "tests.parts.redis",
    "tests.parts.s3",
    "tests.parts.forges.serve",  # last: it imports others
    "tests.parts.web",
    "tests.parts.connected",
    "tests.parts.whole",
    "tests.parts.browser",
]

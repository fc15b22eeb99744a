"""The fixtures of the real parts, for every test: one line for each module of tests/parts that has some."""

pytest_plugins = [
    "tests.parts.repos",
    "tests.parts.s3",
]

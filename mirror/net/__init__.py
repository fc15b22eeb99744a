"""The names of hosts, looked up once and judged: below the edges that go there."""

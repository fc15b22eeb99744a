"""The look of all pages: what filters say, what the strict policy lets them hold, colours one can read."""

import json
import re
import struct
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from jinja2 import UndefinedError

from mirror.core.times import zones
from mirror.web import templating

NOW = datetime(2026, 3, 2, 9, 14, tzinfo=UTC)
STYLE = (templating.STATIC / "style.css").read_text()


def visitor(**known: Any) -> SimpleNamespace:
    """A visit as far as the frame of a page looks at it."""
    nothing = dict.fromkeys(("person", "session", "team", "said", "warned", "found"))
    person = known.get("person")
    seen = {"teams": (), "zone": zones.named(person.zone if person else None), "zone_kept": ""}
    return SimpleNamespace(**nothing | seen | known)


def signed_in(**known: Any) -> SimpleNamespace:
    return visitor(
        person=SimpleNamespace(name="Kim <i>", email="kim@example.org", zone="Asia/Tokyo"),
        session=SimpleNamespace(),
        csrf="c-s-r-f",
        team=SimpleNamespace(id=1, name="acme"),
        **known,
    )


def rendered(source: str, context: object = None, **values: Any) -> str:
    return (
        templating.environment().from_string(source).render(context=context or visitor(), now=NOW, **values)
    )


def page(name: str, context: object, **values: Any) -> str:
    return templating.environment().get_template(name).render(context=context, now=NOW, **values)


def test_an_age_carries_its_exact_time_in_the_persons_zone() -> None:
    said = rendered("{{ then | ago }}", signed_in(), then=NOW - timedelta(seconds=41))
    assert ">41 s ago</time>" in said
    assert 'datetime="2026-03-02T09:13:19Z"' in said
    assert 'title="2026-03-02 18:13:19 JST"' in said


def test_a_time_that_never_was_is_said_so() -> None:
    assert rendered("{{ none | ago('never drilled') }}") == "never drilled"


def test_a_clock_names_the_year_only_when_it_is_another() -> None:
    assert ">1 March, 09:14:00 UTC</time>" in rendered("{{ then | clock }}", then=NOW - timedelta(days=1))
    assert ">2 March 2025, 09:14:00 UTC</time>" in rendered(
        "{{ then | clock }}", then=NOW - timedelta(days=365)
    )


def test_a_zone_that_nobody_knows_is_utc() -> None:
    context = visitor(person=SimpleNamespace(name="x", email=None, zone="Mars/Olympus"))
    assert "09:14:00 UTC" in rendered("{{ then | ago }}", context, then=NOW)


def test_what_git_says_is_escaped() -> None:
    said = rendered("{{ name | refname }}", name=b'refs/heads/a"b<script>\xff')
    assert said == "a&#34;b&lt;script&gt;\ufffd"


def test_an_id_is_short_with_the_whole_in_its_title() -> None:
    whole = b"9f31c2e0d4" + b"0" * 30
    assert rendered("{{ oid | oid }}", oid=whole) == (
        f'<code class="oid" title="{whole.decode()}">9f31c2e0d4</code>'
    )


def test_addresses_are_quoted_and_leave_out_what_is_not_asked() -> None:
    assert templating.repo_url("acme", "a b/c?d", "files/x", at="#12", q=None, path="", ref=b"a\xff") == (
        "/acme/a%20b/c%3Fd/-/files/x?at=%2312&ref=a%FF"
    )


def test_bytes_of_a_path_come_back_the_same() -> None:
    assert rendered("{{ path | path }}", path=b"src/\xff #?.c") == "src/%FF%20%23%3F.c"


@pytest.mark.parametrize(
    ("number", "last", "offered"),
    [
        (1, 1, [1]),
        (1, 3, [1, 2, 3]),
        (5, 9, [1, None, 4, 5, 6, None, 9]),
        (3, 9, [1, 2, 3, 4, None, 9]),
    ],
)
def test_a_pager_offers_the_ends_and_the_neighbours(
    number: int, last: int, offered: list[int | None]
) -> None:
    assert templating.pages(number, last) == offered


def test_what_a_template_forgot_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        rendered("{{ nothing_such }}")


def test_every_file_of_ours_has_an_address_that_changes_with_it() -> None:
    assert re.fullmatch(r"/static/style\.css\?v=[0-9a-f]{12}", templating.static("style.css"))


def test_a_stranger_sees_a_page_without_a_team() -> None:
    said = page("error.html", visitor(), title="Not Found", detail="there is nothing here", retry=False)
    assert "<title>Not Found - Everref</title>" in said
    assert "There is nothing here." in said
    assert 'href="/sign-in"' in said
    assert "<nav" not in said


def test_an_error_within_a_repo_leads_back_to_it() -> None:
    seen = signed_in(found=SimpleNamespace(name="acme/api"))
    said = page("error.html", seen, title="x", detail="acme/api has no snapshot #9", retry=False)
    assert "acme/api has no snapshot #9." in said  # a name stays as it is
    assert '<a class="btn" href="/acme/acme/api">Back to acme/api</a>' in said


def test_a_member_finds_every_page_of_the_team_and_the_way_out() -> None:
    said = page("error.html", signed_in(said="Saved <b>"), title="x", detail="y", retry=True)
    for path in ("/acme", "/acme/-/activity", "/acme/-/drills", "/acme/-/settings", "/account"):
        assert f'href="{path}"' in said
    assert "Saved &lt;b&gt;" in said
    assert "Kim &lt;i&gt;" in said
    assert '<form method="post" action="/sign-out"><input type="hidden" name="csrf" value="c-s-r-f">' in said
    assert "Try again" in said


def test_status_says_which_part_is_away() -> None:
    parts = {"database": True, "queue": True, "worker": False, "vault": True, "disk": True}
    health = SimpleNamespace(**parts, ready=True, well=False, unknown=0)
    said = page("status.html", visitor(), health=health)
    assert "Everref is not fully working" in said
    assert said.count("not working</span>") == 1


def test_a_form_carries_the_sessions_token() -> None:
    source = (
        '{% from "macros.html" import form, field with context %}'
        '{% call form("/x") %}{{ field("name", "Name", wrong="too long") }}{% endcall %}'
    )
    said = rendered(source, signed_in())
    assert 'name="csrf" value="c-s-r-f"' in said
    assert 'aria-invalid="true" aria-describedby="f-name-about"' in said
    assert "csrf" not in rendered(source, visitor())


TEMPLATES = sorted((templating.HERE / "templates").glob("*.html"))


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_no_template_needs_what_the_policy_forbids(template: Any) -> None:
    text = template.read_text()
    assert not re.search(r"<style|\sstyle=|<script(?![^>]*\ssrc=)|\son[a-z]+=|javascript:|\|\s*safe", text)
    assert not re.search(r"""(?:src|href|action)=["']?(?:https?:)?//""", text)


def test_the_script_runs_nothing_that_a_page_brings() -> None:
    script = (templating.STATIC / "everref.js").read_text()
    assert not re.search(r"\beval\b|new Function|document\.write|https?:", script)


def test_the_manifest_names_icons_that_are_there_in_their_sizes() -> None:
    manifest = json.loads((templating.STATIC / "manifest.webmanifest").read_text())
    assert manifest["display"] == "standalone"
    for icon in manifest["icons"]:
        data = (templating.STATIC / icon["src"].removeprefix("/static/")).read_bytes()
        if icon["type"] == "image/png":
            width, height = struct.unpack(">II", data[16:24])
            assert icon["sizes"] == f"{width}x{height}"


def _palette(block: str) -> dict[str, str]:
    found = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6});", block))
    return {
        name: value if len(value) == 7 else "#" + "".join(c * 2 for c in value[1:])
        for name, value in found.items()
    }


LIGHT = _palette(STYLE.partition(":root {")[2].partition("}")[0])
DARK = _palette(STYLE.partition("(prefers-color-scheme: dark)")[2].partition("}")[0])


def _contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2.2, https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


READ = [
    *(
        (ink, ground)
        for ink in ("ink", "soft", "accent", "lost", "late", "proved")
        for ground in ("paper", "card", "well")
    ),
    *((ink, f"{ink}-soft") for ink in ("accent", "lost", "late", "proved")),
    *(("ink", f"{kind}-soft") for kind in ("accent", "lost", "late", "proved")),
    *((f"c-{kind}", "card") for kind in ("word", "text", "number", "name", "remark")),
    *(
        (ink, ground)
        for ink in ("ink", "c-word", "c-text", "c-number", "c-name", "c-remark")
        for ground in ("added", "removed")
    ),
    ("soft", "lost-soft"),
    ("soft", "accent-soft"),
    ("on-accent", "accent"),
    ("on-bar", "bar"),
]


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_every_word_can_be_read_on_its_ground(palette: dict[str, str]) -> None:
    weak = {(a, b): round(r, 2) for a, b in READ if (r := _contrast(palette[a], palette[b])) < 4.5}
    assert not weak


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_the_edge_of_a_field_can_be_seen(palette: dict[str, str]) -> None:
    assert all(_contrast(palette["edge"], palette[ground]) >= 3 for ground in ("paper", "card"))

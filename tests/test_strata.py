"""The picture of every ref over time: well-formed, escaped, bounded, and told in words too."""

import itertools
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import pytest

from mirror.core.rules.history.timeline import Bar, Cut, Lane, Push, Timeline
from mirror.web.pages.repos import timeline_svg
from mirror.web.pages.repos.timeline_svg import Handle, Link, Said

START = datetime(2026, 3, 1, tzinfo=UTC)
END = START + timedelta(days=4)
DAY = timedelta(days=1)
SVG = "{http://www.w3.org/2000/svg}"
SAID = Said(
    lambda lane, push: f"push #{push.snapshot}",
    lambda lane, cut: Link(
        f'/x?at=#{cut.snapshot - 1}&y="', f"{timeline_svg.label(lane)} {cut.kind} by {cut.by}"
    ),
)


def picture(*lanes: Lane) -> Timeline:
    return Timeline(START, END, lanes, len(lanes), 0)


def lane(name: bytes = b"refs/heads/main", **given: object) -> Lane:
    fields: dict[str, object] = {"refs": 1, "bars": (Bar(START, END),), "pushes": (), "cuts": ()}
    return Lane(name, **(fields | given))  # type: ignore[arg-type]


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def of_class(svg: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [one for one in svg.iter() if one.get("class") == name]


def test_a_lane_has_its_bars_notches_cuts_and_dotted_lines_in_place() -> None:
    forced = Cut(START + 2 * DAY, 7, "forced", 1, END)
    bars = (Bar(START, START + 2 * DAY), Bar(START + 2 * DAY, END))
    svg = parsed(
        timeline_svg.svg(picture(lane(bars=bars, pushes=(Push(START + DAY, 5, 1),), cuts=(forced,))))
    )
    middle, quarter = 190 + (1064 - 190) / 2, 190 + (1064 - 190) / 4
    assert [one.get("x") for one in of_class(svg, "stay")] == ["190", f"{middle:g}"]
    assert [one.get("x") for one in of_class(svg, "push")] == [f"{quarter:g}"]
    assert [one.get("x1") for one in of_class(svg, "cut")] == [f"{middle:g}"]
    assert [one.get("d") for one in of_class(svg, "ghost")] == [f"M{middle + 5:g} 56 H1064"]
    assert svg.get("role") == "group" and svg.get("aria-label") == "Every ref over time"


def test_the_handle_is_at_the_moment_and_stays_inside() -> None:
    for moment in (START, START + DAY, END):
        svg = parsed(timeline_svg.svg(picture(lane()), handle=Handle(moment, "1 Mar, 09:13")))
        (grip,), (text,) = of_class(svg, "grip"), of_class(svg, "gt")
        assert 0 <= float(grip.get("x", "")) <= 1064 - timeline_svg.GRIP
        assert text.text == "1 Mar, 09:13"
        assert svg.get("aria-label") == "Every ref over time; the handle is at 1 Mar, 09:13"


@pytest.mark.parametrize(
    "name",
    [
        b'refs/heads/a"b<script>alert(1)</script>',
        b"refs/heads/\xff\xfe",
        b"refs/heads/with'both\"quotes&amp;",
        "refs/heads/\u202egnp".encode(),
        b"refs/heads/" + b"n" * 4000,
    ],
)
def test_a_name_is_text_whatever_it_is(name: bytes) -> None:
    text = timeline_svg.figure(
        picture(lane(name, cuts=(Cut(START, 3, "forced", 1, END),))),
        handle=Handle(START, name.decode(errors="replace")),
        said=SAID,
    )
    assert "<script" not in text and "\u202e" not in text
    tree = parsed(f"<div>{text}</div>")
    assert {one.tag.removeprefix(SVG) for one in tree.iter()} <= {
        *("div", "svg", "g", "a", "line", "text", "title", "rect", "path", "ul", "li"),
    }


def test_a_cut_is_a_link_as_large_as_a_finger_to_the_moment_before_it() -> None:
    cuts = tuple(Cut(START + n * DAY / 48, n, "forced", 1, END, "kim") for n in range(2, 100))
    svg = parsed(timeline_svg.svg(picture(lane(cuts=cuts), lane(b'refs/heads/"b', cuts=cuts[:1])), said=SAID))
    links = list(svg.iter("a"))
    assert links[-1].get("href") == '/x?at=#1&y="' and links[-1].get("aria-label") == '"b forced by kim'
    assert links[-1].get("data-of") == "1"
    left = [float(one[1].get("x", "")) for one in links[:-1]]
    assert all(one[1].get("width") == one[1].get("height") == "34" for one in links)
    assert all(right - one >= 33 for one, right in itertools.pairwise(left[:-1]))
    assert links[-2].get("data-n") == "99"  # the latest is never left out


def test_a_keyboard_comes_by_the_latest_thirty_cuts() -> None:
    cuts = tuple(Cut(START + n * DAY / 6, n, "deleted", 1, END) for n in range(1, 21))
    svg = parsed(
        timeline_svg.svg(picture(*[lane(b"refs/heads/%d" % n, cuts=cuts) for n in range(3)]), said=SAID)
    )
    tabbed = [one for one in svg.iter("a") if one.get("tabindex") is None]
    assert len(tabbed) == timeline_svg.TABBED
    assert {one.get("data-n") for one in tabbed} == {str(n) for n in range(11, 21)}


def test_before_and_after_stand_beside_the_handle() -> None:
    handle = Handle(START + DAY, "2 Mar", Link("/before", "#4"), Link("/after", "#6"))
    svg = parsed(timeline_svg.svg(picture(lane()), handle=handle))
    assert [(one.get("href"), one[1].text) for one in of_class(svg, "beside")] == [
        ("/before", "\u2039 #4"),
        ("/after", "#6 \u203a"),
    ]


def test_a_push_says_what_it_is_unless_there_are_too_many() -> None:
    few = parsed(timeline_svg.svg(picture(lane(pushes=(Push(START + DAY, 5, 1),))), said=SAID))
    (push,) = of_class(few, "push")
    assert push.get("data-n") == "5" and push[0].text == "push #5"
    many = parsed(timeline_svg.svg(picture(busy(b"refs/heads/main")), said=SAID))
    assert all(len(one) == 0 for one in of_class(many, "push"))


def test_nothing_is_styled_in_place() -> None:
    text = timeline_svg.figure(picture(lane()), handle=Handle(START, "now"), said=SAID)
    assert "style=" not in text and "<style" not in text


def busy(name: bytes) -> Lane:
    """More than anybody can see."""
    step = (END - START) / 5000
    pushes = tuple(Push(START + n * step, n, 1) for n in range(5000))
    cuts = tuple(Cut(START + n * step, n, "deleted", 1, START + (n + 0.5) * step) for n in range(5000))
    bars = tuple(Bar(START + (n + 0.5) * step, START + (n + 1) * step) for n in range(5000))
    return Lane(name, 1, bars, pushes, cuts)


@pytest.mark.parametrize("count", [1, 24, 100])
def test_a_picture_is_bounded_however_much_happened(count: int) -> None:
    svg = parsed(
        timeline_svg.svg(
            picture(*[busy(b"refs/heads/%d" % n) for n in range(count)]), handle=Handle(START), said=SAID
        )
    )
    assert sum(1 for _ in svg.iter()) <= timeline_svg.ELEMENTS
    assert len(of_class(svg, "push")) >= count


def test_an_empty_picture_is_one() -> None:
    assert parsed(timeline_svg.svg(picture())).get("class") == "strata"
    assert parsed(timeline_svg.svg(Timeline(START, START, (lane(),), 0, 0))) is not None


def test_the_lanes_are_told_in_words() -> None:
    cut = Cut(START, 1, "deleted", 1, END)
    lanes = (
        lane(pushes=(Push(START, 1, 2), Push(END, 2, 1))),
        lane(b"refs/tags/v1"),
        lane(b"refs/heads/gone", cuts=(cut,)),
        lane(b"refs/pull/", refs=312, cuts=(cut, cut), pushes=(Push(START, 1, 1),)),
    )
    assert timeline_svg.spoken(picture(*lanes)) == [
        "main: 3 pushes",
        "v1: no push in this time",
        "gone: deleted 2026-03-01 00:00 UTC",
        "refs/pull/* (312 refs): 1 push, deleted 2 times, last 2026-03-01 00:00 UTC",
    ]
    assert '<ul class="hear"><li>main: 3 pushes</li>' in timeline_svg.figure(picture(*lanes))

"""Files on a page: highlighted, read as Markdown, compared; and harmless, whatever is in them."""

import re
from html.parser import HTMLParser

import pytest

from mirror.core.formats.objects import FileChange, Hunk, Line
from mirror.core.rules import render


def link(path: bytes) -> str:
    return "/at/" + path.decode(errors="replace")


def picture(path: bytes) -> str:
    return "/raw/" + path.decode(errors="replace")


def readme(text: str, path: bytes = b"docs/README.md") -> str:
    return str(render.readme(text, path, link=link, picture=picture))


class _Seen(HTMLParser):
    """What a browser would find in a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def plain(html: str) -> str:
    return re.sub(r"<[^>]*>", "", html)


def test_source_is_highlighted_by_classes_a_line_at_a_time() -> None:
    lines = render.source('"""A\ndocstring"""\nx = 1 < 2\n', b"src/a.py")
    assert len(lines) == 3
    assert lines[0].startswith('<span class="sd">') and lines[1].startswith('<span class="sd">')
    assert plain(lines[2]) == "x = 1 &lt; 2"
    assert "style" not in "".join(lines)


@pytest.mark.parametrize(
    ("text", "path", "count"),
    [
        ("", b"a.py", 0),
        ("\n", b"a.py", 1),
        ("\n\n\nx", b"a.py", 4),
        ("a\r\nb\rc", b"a.py", 3),
        ("<script>alert(1)</script>", b"a.html", 1),
        ("<script>alert(1)</script>", b"unknown.zzz", 1),
        ("<b>" * 10_000, b"a.html", 1),
        ("x = 1\n" * 30_000, b"a.py", render.LINES),
        ("{", b"\xff\xfe.json", 1),
        ("a\x0bb\x0cc\u2028d", b"a.txt", 1),
    ],
)
def test_source_has_the_lines_of_the_file_and_no_markup_of_its_own(
    text: str, path: bytes, count: int
) -> None:
    lines = render.source(text, path)
    assert len(lines) == count
    assert all("<script" not in line and "<b>" not in line for line in lines)
    assert {tag for line in lines for tag, _ in _Seen(line).tags} <= {"span"}


def test_what_reorders_or_hides_text_is_shown() -> None:
    for path in (b"a.py", b"a"):
        assert "\u202e" not in "".join(render.source("access = '\u202e\u2066// admin'", path))
    assert "\u202e" not in readme("a \u202e b")


def test_a_readme_is_markdown_with_tables_code_and_headings() -> None:
    html = readme("# Hello World\n\n|a|b|\n|:-|-:|\n|1|2|\n\n~~old~~\n\n```py\nx = 1\n```\n\n# Hello World\n")
    assert '<h1 id="readme-hello-world">' in html and '<h1 id="readme-hello-world-1">' in html
    assert '<td class="right">2</td>' in html and "<s>old</s>" in html
    assert '<span class="n">x</span>' in html


def test_links_lead_to_the_same_moment_or_openly_elsewhere() -> None:
    html = readme(
        "[a](guide.md) [b](../src/x%20y.c) [c](/top.md) [d](https://example.org/?q=1) [e](#hello) [f](.)"
    )
    tags = [attrs for tag, attrs in _Seen(html).tags if tag == "a"]
    assert [attrs.get("href") for attrs in tags] == [
        "/at/docs/guide.md",
        "/at/src/x y.c",
        "/at/top.md",
        "https://example.org/?q=1",
        "#readme-hello",
        "/at/docs",
    ]
    assert {attrs["rel"] for attrs in tags} == {"noopener noreferrer nofollow"}


@pytest.mark.parametrize(
    "address",
    [
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        "java\tscript:alert(1)",
        "&#106;avascript:alert(1)",
        "data:text/html,<script>alert(1)</script>",
        "vbscript:x",
        "//evil.example/x",
        "\\\\evil.example/x",
        "/\\evil.example/x",
        "../../../etc/passwd",
        "%2e%2e/%2e%2e/x",
        "http://[",
        "file:///etc/passwd",
        "a\0b",
    ],
)
@pytest.mark.parametrize("form", ['<a href="{}">x</a>', "[x](<{}>)", '<img src="{}">', "![x](<{}>)"])
def test_no_address_leads_where_it_should_not(form: str, address: str) -> None:
    for tag, attrs in _Seen(readme(form.format(address), b"README.md")).tags:
        for name in ("href", "src"):
            value = attrs.get(name)
            assert value is None or value.startswith("/at/" if tag == "a" else "/raw/"), value
            assert value is None or ".." not in value.split("/")


@pytest.mark.parametrize(
    "html",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "<iframe src=/x></iframe>",
        "<style>body{display:none}</style>",
        "<p style='position:fixed'>x</p>",
        "<form action=/x><input name=y></form>",
        "<svg><script>alert(1)</script></svg>",
        "<math><mi xlink:href='javascript:alert(1)'>x</mi></math>",
        "<div id=main class=card>x</div>",
        "<base href=//evil.example>",
        "<meta http-equiv=refresh content='0;url=//evil.example'>",
        "<span class='chip lost'>proved</span>",
        "<a href=/x target=_top onclick=alert(1) id=y name=z>x</a>",
        "</main><h1>Not ours",
        "<!--<img src=x>-->",
        "<noscript><p title='</noscript><img src=x onerror=alert(1)>'></noscript>",
    ],
)
def test_raw_html_of_a_readme_does_nothing(html: str) -> None:
    for tag, attrs in _Seen(readme(f"before\n\n{html}\n\nafter")).tags:
        assert tag in render._TAGS
        assert set(attrs) <= {"href", "title", "src", "alt", "rel", "start", "class", "id"}
        assert not any(name.startswith("on") for name in attrs)
        assert attrs.get("class") in {None, *render._CLASSES, "left", "right", "center"}
        assert (attrs.get("id") or "readme-").startswith("readme-")


def test_no_picture_is_fetched_from_elsewhere() -> None:
    html = readme("![build](https://ci.example/badge.svg) ![own](img/a.png)")
    pictures = [attrs for tag, attrs in _Seen(html).tags if tag == "img"]
    assert [(attrs.get("src"), attrs.get("alt")) for attrs in pictures] == [
        (None, "build"),
        ("/raw/docs/img/a.png", "own"),
    ]
    assert "ci.example" not in html


def test_a_readme_that_is_no_markdown_is_text() -> None:
    assert readme("# <b>x</b>", b"README.rst") == "<pre># &lt;b&gt;x&lt;/b&gt;</pre>"


@pytest.mark.parametrize("text", ["[" * 70_000, "> " * 30_000, "<div>" * 10_000, "`a" * 30_000, ""])
def test_a_hostile_readme_comes_to_an_end(text: str) -> None:
    assert len(readme(text)) < 1_000_000


def test_changed_lines_are_escaped_and_numbered() -> None:
    lines = (
        Line(" ", 1, 1, b"<same>"),
        Line("-", 2, None, b"\xff\xfe"),
        Line("+", None, 2, "\u202enew".encode(), ends=False),
    )
    change = FileChange(
        b"a", "modified", b"a", 0o100644, 0o100644, None, None, 1, 1, False, (Hunk(1, 2, 1, 2, lines),)
    )
    (block,) = render.difference(change)
    assert block.heading == "@@ -1,2 +1,2 @@"
    assert [(row.sign, row.old, row.new, row.html, row.ends) for row in block.rows] == [
        (" ", 1, 1, "&lt;same&gt;", True),
        ("-", 2, None, "\ufffd\ufffd", True),
        ("+", None, 2, "\ufffdnew", False),
    ]


def test_only_pictures_without_scripts_are_shown_as_pictures() -> None:
    assert render.picture_type(b"a/B.PNG") == "image/png"
    assert render.picture_type(b"a.svg") is None and render.picture_type(b"a.html") is None

"""Files made fit for a page: highlighted source, READMEs as safe HTML, and the lines of a difference.

What comes from a repository is hostile until proved otherwise. Everything that
leaves here is escaped or has been through an allow-list; nothing carries a
style, a script, or an address that a browser would fetch by itself.
"""

import posixpath
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote, urlsplit

import nh3
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name, get_lexer_for_filename
from pygments.token import STANDARD_TYPES, _TokenType
from pygments.util import ClassNotFound

from mirror.core.formats import objects
from mirror.core.formats.objects import FileChange, Hunk

HIGHLIGHTED: Final = 128 << 10  # characters; more takes long and is read by nobody
LINE: Final = 2_000  # characters of a line that lexers are given
LINES: Final = 20_000  # of a file
SECONDS: Final = 1.0  # for the highlighting of one file
README_HTML: Final = 1 << 20  # characters that it may become; what becomes more was not written to be read
README: Final = 64 << 10  # characters; a hostile one of this length takes half a second

# What is highlighted, by the names that Pygments has for it. Some of its lexers take minutes for a line of
# tabs: these were tried with lines of thousands of each sign.
LEXERS: Final = frozenset(
    """
    bash bat batch c clojure cmake common-lisp console cpp csharp css cuda cython d dart delphi diff docker
    elisp elixir elm erlang fish fortran fsharp glsl go graphql groovy haskell html html+django html+jinja
    ini java javascript json jsx julia kotlin less lua make markdown meson nginx nim nix objective-c ocaml
    perl php powershell properties protobuf python r restructuredtext rst ruby rust scala scheme scss solidity
    sql starlark swift tcl tsql postgresql mysql
    terraform tex toml tsx typescript vb.net verilog vhdl vim vue xml xslt yaml zig
    """.split()
)

_TAGS: Final = {
    *("a", "abbr", "b", "blockquote", "br", "caption", "code", "dd", "del", "details", "dl", "dt", "em"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "ins", "kbd", "li", "ol", "p", "pre", "s"),
    *("samp", "span", "strong", "sub", "summary", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul"),
}
_HEADINGS: Final = ("h1", "h2", "h3", "h4", "h5", "h6")
_ATTRIBUTES: Final = {
    "a": {"href", "title"},
    "img": {"src", "alt", "title"},
    "ol": {"start"},
    "span": {"class"},
    "td": {"class"},
    "th": {"class"},
    **{heading: {"id"} for heading in _HEADINGS},
}
_REL: Final = "noopener noreferrer nofollow"
_PREFIX: Final = "readme-"  # of the ids in a README, so that they never meet the page's own
_ALIGNED: Final = {f"text-align:{side}": side for side in ("left", "center", "right")}
_SCHEMES: Final = {"http", "https", "mailto"}
_CLASSES: Final = frozenset(STANDARD_TYPES.values())
_PICTURES: Final = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".avif": "image/avif",
}

Link = Callable[[bytes], str]  # the address of a path of the same moment


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a difference, for a page."""

    sign: str  # " ", "+", "-"
    old: int | None
    new: int | None
    html: Markup
    ends: bool  # False: no line feed at the end of the file


@dataclass(frozen=True, slots=True)
class Block:
    """A hunk, for a page."""

    heading: str  # @@ -1,3 +1,4 @@
    rows: tuple[Row, ...]


def source(text: str, path: bytes) -> list[Markup]:
    """A file's lines as HTML, with the classes of Pygments where a lexer knows the name.

    Each line stands alone: what spans lines is closed and opened again.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    cut = len(lines) > LINES
    lines = lines[:LINES]
    if cut or len(text) > HIGHLIGHTED or any(len(line) > LINE for line in lines):
        return [escape(_visible(line)) for line in lines]
    lexer = _lexer(path)
    if lexer is None:
        return [escape(_visible(line)) for line in lines]
    found = _highlighted("\n".join(lines) + "\n", lexer)
    if len(found) != len(lines):  # it took too long, or the lexer lost a line: the numbers would be wrong
        return [escape(_visible(line)) for line in lines]
    return found


def _lexer(path: bytes) -> Lexer | None:
    name = path.rpartition(b"/")[2].decode(errors="replace")
    try:
        lexer = get_lexer_for_filename(name, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None
    return lexer if LEXERS.intersection(lexer.aliases) else None


def _highlighted(text: str, lexer: Lexer) -> list[Markup]:
    lines: list[list[str]] = [[]]
    deadline = time.monotonic() + SECONDS
    for kind, value in lexer.get_tokens(text):
        if time.monotonic() > deadline:
            return []
        name = _class(kind)
        for number, piece in enumerate(value.split("\n")):
            if number:
                lines.append([])
            if piece:
                shown = escape(_visible(piece))
                lines[-1].append(f'<span class="{name}">{shown}</span>' if name else str(shown))
    if not lines[-1]:
        lines.pop()
    return [Markup("".join(line)) for line in lines]


def _class(kind: _TokenType) -> str:
    """The short class of a token: of its nearest ancestor that has one."""
    while kind not in STANDARD_TYPES and kind.parent is not None:
        kind = kind.parent
    return str(STANDARD_TYPES.get(kind, ""))


_HIDDEN: Final = re.compile(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]"
)


def _visible(text: str) -> str:
    """Text without what would reorder or hide other text: https://trojansource.codes/."""
    return _HIDDEN.sub("\ufffd", text)


def difference(change: FileChange) -> list[Block]:
    """A file's changed lines, for a page."""
    return [_block(hunk) for hunk in change.hunks]


def _block(hunk: Hunk) -> Block:
    heading = f"@@ -{hunk.old_start},{hunk.old_lines} +{hunk.new_start},{hunk.new_lines} @@"
    rows = tuple(
        Row(line.sign, line.old, line.new, escape(_visible(objects.decoded(line.text))), line.ends)
        for line in hunk.lines
    )
    return Block(heading, rows)


def readme(text: str, path: bytes, *, link: Link, picture: Link) -> Markup:
    """A README as safe HTML: Markdown by its rules, anything else as the text it is.

    `link` and `picture` make the addresses of paths of the same moment, for
    relative links and pictures. Pictures from elsewhere are not fetched: their
    words stand in for them.
    """
    if not path.lower().endswith((b".md", b".markdown")):
        return Markup("<pre>{}</pre>").format(_visible(text[:README]))
    folder = path.rpartition(b"/")[0]

    def kept(tag: str, attribute: str, value: str) -> str | None:
        if attribute == "href":
            return _address(value, folder, link)
        if attribute == "src":
            return None if _is_elsewhere(value) else _address(value, folder, picture)
        if attribute == "class":
            allowed = _CLASSES if tag == "span" else _ALIGNED.values()
            return value if value in allowed else None
        return value

    safe = nh3.clean(
        _markdown().render(_visible(text[:README])),
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        attribute_filter=kept,
        link_rel=_REL,
        url_schemes=_SCHEMES,
        id_prefix=_PREFIX,
    )
    return Markup(safe if len(safe) <= README_HTML else "")


def _markdown() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": True, "highlight": _fenced}).enable(["table", "strikethrough"])
    made.core.ruler.push("everref", lambda state: _prepare(state.tokens))
    return made


def _prepare(tokens: Sequence[Token]) -> None:
    """Give headings ids, and say by class what tables say by style."""
    seen: dict[str, int] = {}
    for token, inner in zip(tokens, tokens[1:], strict=False):
        if token.type == "heading_open":
            slug = "-".join(re.sub(r"[^\w\s-]", "", inner.content.lower()).split())[:100]
            seen[slug] = seen.get(slug, -1) + 1
            token.attrSet("id", f"{slug}-{seen[slug]}" if seen[slug] else slug)
        if token.type in ("th_open", "td_open"):
            side = _ALIGNED.get(str(token.attrs.pop("style", "")))
            if side:
                token.attrSet("class", side)


def _fenced(code: str, language: str, _: str) -> str:
    """The inside of a code block; nothing: as it is."""
    if not language or len(code) > HIGHLIGHTED or any(len(line) > LINE for line in code.split("\n")):
        return ""
    try:
        lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return ""
    if not LEXERS.intersection(lexer.aliases):
        return ""
    return "\n".join(_highlighted(code, lexer))


def quoted(path: bytes) -> str:
    """A path as a part of an address."""
    return quote(path, safe="/")


def _is_elsewhere(address: str) -> bool:
    try:
        parts = urlsplit(address.strip())
    except ValueError:
        return True
    return bool(parts.scheme or parts.netloc)


def _address(address: str, folder: bytes, make: Link) -> str | None:
    """Where a README's link leads: elsewhere by its own words, else to a path of the same moment."""
    address = address.strip()
    if address.startswith("#"):
        return f"#{_PREFIX}{address[1:]}"
    try:
        parts = urlsplit(address)
    except ValueError:
        return None
    if parts.scheme or parts.netloc:
        return address if parts.scheme in _SCHEMES else None
    path = unquote(parts.path, errors="surrogateescape").encode("utf-8", "surrogateescape")
    if not path or b"\0" in path:
        return None
    whole = posixpath.normpath(path.lstrip(b"/") if path.startswith(b"/") else folder + b"/" + path)
    whole = whole.lstrip(b"/")
    return None if whole in (b"", b".") or whole.split(b"/")[0] == b".." else make(whole)


def picture_type(path: bytes) -> str | None:
    """The media type of a file that a browser may show as a picture; None: it is to be downloaded.

    SVG is none: it can hold scripts.
    """
    return _PICTURES.get(posixpath.splitext(path.lower())[1].decode("ascii", "replace"))

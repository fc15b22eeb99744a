"""A pack log made by stock git: what a repository brings with each snapshot, as the bodies of thin packs."""

import hashlib
import shutil
from hashlib import sha256
from pathlib import Path

from mirror.core.formats import bundle, splice
from mirror.core.formats.bundle import Header
from mirror.core.model import ObjectFormat, Part, Refs, Segment, Target
from mirror.core.refs import is_symbolic
from tests.parts.repos import Work, refs_of, run_git


class Log:
    """The parts of a repository's pack log as they were born, with their stored bytes."""

    def __init__(self, work: Work, room: Path) -> None:
        self.work = work
        self.object_format: ObjectFormat = work.object_format
        self.room = room
        self.pool = room / "pool.git"  # exactly the log so far
        self.number = 0
        self.parts: list[Part] = []
        self.segments: list[Segment] = []
        self.stored: dict[str, bytes] = {}
        self.refs: dict[int, Refs] = {}  # as they were at each snapshot
        run_git("init", "-q", "--bare", f"--object-format={self.object_format}", self.pool)

    def take(self) -> Part | None:
        """The next snapshot: what the repository has now and the log lacks is a new part. None: nothing."""
        self.number += 1
        refs = self.refs[self.number] = refs_of(self.work.path)
        tips = sorted({target for target in refs.values() if not is_symbolic(target)})
        pack = self._new_objects(tips)
        entries = splice.read_pack_header(pack[: splice.PACK_HEADER])
        if entries == 0:
            return None
        header = bundle.encode(Header(self.object_format, (), refs))
        body = pack[splice.PACK_HEADER : -splice.trailer_bytes(self.object_format)]
        segment = Segment(self.number, entries, len(body), sha256(body).hexdigest())
        first = self.parts[-1].last + 1 if self.parts else 1
        part = self.store(header + pack, first, self.number, (segment,), len(header), not self.parts)
        self.parts.append(part)
        self.segments.append(segment)
        return part

    def _new_objects(self, tips: list[Target]) -> bytes:
        scratch = self.room / "scratch.git"
        run_git("init", "-q", "--bare", f"--object-format={self.object_format}", scratch)
        (scratch / "objects/info/alternates").write_text(f"{self.pool / 'objects'}\n")
        run_git("-C", scratch, "fetch", "-q", "--no-tags", self.work.path, "+refs/*:refs/*")
        revs = b"".join(tip + b"\n" for tip in tips) + b"--not\n" + b"".join(self._known())
        thin = ("--revs", "--thin", "--local", "--delta-base-offset", "--stdout")
        pack = run_git("-C", scratch, "pack-objects", "-q", *thin, stdin=revs)
        run_git("-C", self.pool, "index-pack", "--stdin", "--fix-thin", stdin=pack)
        shutil.rmtree(scratch)
        return pack

    def _known(self) -> set[bytes]:
        old = self.refs.get(self.number - 1, {})
        return {target + b"\n" for target in old.values() if not is_symbolic(target)}

    def store(
        self,
        stored: bytes,
        first: int,
        last: int,
        segments: tuple[Segment, ...],
        header_bytes: int,
        complete: bool,
        epoch: int = 1,
    ) -> Part:
        """Keep these bytes as the part of this range, which is not yet one of `parts`."""
        key = f"{first}-{last}-{len(self.stored)}.bundle"
        self.stored[key] = stored
        entries = splice.read_pack_header(stored[header_bytes : header_bytes + splice.PACK_HEADER])
        sum_ = sha256(stored).hexdigest()
        return Part(key, epoch, first, last, len(stored), sum_, header_bytes, entries, segments, complete)

    def merge(self, first: int, last: int) -> Part:
        """One part with the entries of the parts of this range, by nothing but concatenation."""
        old = [part for part in self.parts if first <= part.first and part.last <= last]
        return self._merged(old)

    def _merged(self, old: list[Part]) -> Part:
        end = splice.trailer_bytes(self.object_format)
        body = b"".join(self.stored[part.key][part.header_bytes + splice.PACK_HEADER : -end] for part in old)
        pack = self.whole_pack(sum(part.entries for part in old), body)
        segments = tuple(segment for part in old for segment in part.segments)
        header = bundle.encode(Header(self.object_format, (), {}))
        return self.store(header + pack, old[0].first, old[-1].last, segments, len(header), old[0].complete)

    def checkpoint(self) -> Part:
        """One complete part by git: everything that the log holds so far, packed anew."""
        run_git("-C", self.pool, "repack", "-q", "-a", "-d", "-k", "-f")
        (packed,) = (self.pool / "objects/pack").glob("*.pack")
        header = bundle.encode(Header(self.object_format, (), {}))
        return self.store(header + packed.read_bytes(), 1, self.parts[-1].last, (), len(header), True)

    def whole_pack(self, entries: int, body: bytes) -> bytes:
        """A pack of these entries, with its own header and trailer."""
        pack = splice.pack_header(entries) + body
        return pack + hashlib.new(self.object_format, pack).digest()

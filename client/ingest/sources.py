"""Open what holds bytes: a file of the tree, or a member of a zip archive; deflated data sets are inflated.

Every stream can seek and is bounded: bytes that have to be unpacked are unpacked as far as they are asked
for, kept in memory, and end in ``SourceError`` at the limits below whatever the archive declares.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from client.ingest.records import MEMBER, Reason, Skip

MAXIMUM_BYTES = 4 * 2**30
"""Largest source that is read; a CT of the most voxels that are taken (scan) has half of that."""
MAXIMUM_MEMBERS = 1_000_000
"""Most members of an archive."""
MAXIMUM_DIRECTORY = 256 * 2**20
"""Most bytes of an archive's directory: 256 a member."""
MAXIMUM_INFLATED = 512 * 2**20
"""Most bytes that a deflated data set may inflate to."""
_BLOCK = 64 * 1024  # bytes read at once; the file meta information must lie within the first
_STEP = 2**20  # bytes unpacked at once
_ENTRY = 46  # bytes that an entry of an archive's directory has at least
_LOCAL = 30  # bytes of the header that stands before a member's content
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_EXPLICIT = b"1.2.840.10008.1.2.1\0\0\0"
_SYNTAX = 0x0010


class SourceError(Exception):
    """A source that can't be opened or read on: the reason and detail of its ``Skip``."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


class Stream(io.BufferedReader):
    """A source that is open. ``size``: its bytes, None where only unpacking all of it would tell.

    ``mtime_ns``: when a file was changed, None for what is unpacked.
    """

    def __init__(self, raw: _Unpacked | io.FileIO, size: int | None, mtime_ns: int | None = None) -> None:
        super().__init__(raw, _BLOCK)
        self.size = size
        self.mtime_ns = mtime_ns
        self._unpacked = raw if isinstance(raw, _Unpacked) else None

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _STEP:  # the base class takes memory for all that it is asked for
            place = self.tell()
            end = self._unpacked.unpack(place + size) if self._unpacked else self.size or 0
            size = min(size, max(0, end - place))
        return super().read(size)


@contextlib.contextmanager
def open_source(root: Path, source: str) -> Iterator[Stream]:
    """The bytes of ``source`` under ``root``, as a data set that is not deflated.

    A deflated data set (PS3.5 A.5) comes inflated, its transfer syntax rewritten to Explicit VR Little Endian.
    Raises OSError if the file can't be opened, SourceError for what may not be read; reading may raise both.
    """
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(_open_packed(root, source))
        meta = _deflated_meta(stream.peek(_BLOCK))
        if meta is not None:
            stream.seek(len(meta))
            start = meta.replace(_DEFLATED, _EXPLICIT)
            raw = _Unpacked(_Inflater(stream).read, MAXIMUM_INFLATED, start)
            stream = stack.enter_context(Stream(raw, None))
        yield stream


def archive_members(root: Path, path: str) -> list[tuple[str, int]] | Skip:
    """Source and declared bytes of each file in the archive ``path`` under ``root``, sorted; or why it is left out.

    Names are never used as paths of the file system. Two members of one name get distinct sources.
    """
    try:
        if os.path.isdir(root / f"{path}{MEMBER[0]}"):
            return Skip(path, Reason.BAD_ARCHIVE, "a folder beside it is named as its members would be")
        archive = _archive(root / path)
    except SourceError as error:
        return Skip(path, error.reason, error.detail)
    except OSError:
        return Skip(path, Reason.UNREADABLE)
    if archive.overlaps():
        return Skip(path, Reason.TOO_LARGE, "members of the archive overlap")
    return sorted((f"{path}{MEMBER}{name}", info.file_size) for name, info in archive.members.items())


def is_archive(start: bytes) -> bool:
    """Whether a file that begins so is a zip archive; an empty one is but the end of a directory."""
    return start.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def _open_packed(root: Path, source: str) -> contextlib.AbstractContextManager[Stream]:
    """A file as it is; a member of an archive unpacked, but not inflated as a data set."""
    try:
        file = io.FileIO(root / source)
    except (FileNotFoundError, NotADirectoryError):
        found = _split(root, source)
        if found is None:
            raise
        return _open_member(*found)
    status = os.fstat(file.fileno())
    return Stream(file, status.st_size, status.st_mtime_ns)


def _split(root: Path, source: str) -> tuple[Path, str] | None:
    """Archive and member that ``source`` names; the archive is the first part that is a file."""
    end = source.find(MEMBER)
    while end >= 0:
        if os.path.isfile(root / source[:end]):
            return root / source[:end], source[end + len(MEMBER) :]
        end = source.find(MEMBER, end + 1)
    return None


@contextlib.contextmanager
def _open_member(path: Path, name: str) -> Iterator[Stream]:
    archive = _archive(path)
    info = archive.members.get(name)
    if info is None:
        raise FileNotFoundError(f"no such member in '{path}'")
    if info.file_size > MAXIMUM_BYTES:
        raise SourceError(Reason.TOO_LARGE, f"{info.file_size} bytes declared")
    if info.flag_bits & 0x1:
        raise SourceError(Reason.BAD_ARCHIVE, "encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # the other methods can't be unpacked in bounded steps, and DICOM has no use for them (PS3.12 V)
        raise SourceError(Reason.BAD_ARCHIVE, f"compression method {info.compress_type}, not stored or deflated")
    with _damage_told():
        content = archive.zip.open(info)
    with content, Stream(_Unpacked(content.read, MAXIMUM_BYTES), info.file_size) as stream:
        yield stream


class _Archive:
    """A zip archive that is open: its members by the name that makes them distinct."""

    def __init__(self, path: Path) -> None:
        self._file = _Guarded(io.FileIO(path))
        with _damage_told():
            self.zip = zipfile.ZipFile(self._file)
        self.members = self._named()

    def __del__(self) -> None:
        self._file.close()  # with the last member that is open: ZipFile does not close what it did not open

    def _named(self) -> dict[str, zipfile.ZipInfo]:
        named: dict[str, zipfile.ZipInfo] = {}
        for info in self.zip.infolist():
            if info.is_dir():
                continue
            name, copies = info.filename, 1
            while name in named:
                copies += 1
                name = f"{info.filename}{MEMBER}{copies}"
            named[name] = info
        return named

    def overlaps(self) -> bool:
        """Whether two members share bytes of the archive: a bomb's way to much content from few bytes."""
        end = 0
        for info in sorted(self.zip.infolist(), key=lambda info: info.header_offset):
            if info.header_offset < end:
                return True
            end = info.header_offset + _LOCAL + info.compress_size
        return False


class _Guarded(io.BufferedReader):
    """A file as ZipFile reads it, which takes the whole directory at once: refused before memory is taken."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAXIMUM_DIRECTORY:
            raise SourceError(Reason.TOO_LARGE, "the directory of the archive")
        content = super().read(size)
        if len(content) > _ENTRY * MAXIMUM_MEMBERS and content.count(b"PK\x01\x02") > MAXIMUM_MEMBERS:
            raise SourceError(Reason.TOO_LARGE, f"more than {MAXIMUM_MEMBERS} members")
        return content


_last: dict[tuple[Path, int, int], _Archive] = {}  # one at most: members are read archive by archive


def _archive(path: Path) -> _Archive:
    """The archive at ``path``; the last one is kept open, so that its directory is parsed once a process."""
    status = os.stat(path)
    key = (path, status.st_size, status.st_mtime_ns)
    if key not in _last:
        archive = _Archive(path)
        _last.clear()
        _last[key] = archive
    return _last[key]


@contextlib.contextmanager
def _damage_told() -> Iterator[None]:
    """What zipfile and zlib raise over a damaged archive, as ``SourceError``."""
    try:
        yield
    except (SourceError, OSError, MemoryError):
        raise
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError, struct.error):
        raise SourceError(Reason.BAD_ARCHIVE, "damaged") from None


class _Unpacked(io.RawIOBase):
    """A stream that can seek over one that can't: keeps what was unpacked, at most ``limit`` bytes."""

    name = "unpacked"  # pydicom asks for it

    def __init__(self, read: Callable[[int], bytes], limit: int, start: bytes = b"") -> None:
        self._read = read
        self._limit = limit
        self._content = bytearray(start)
        self._position = 0
        self._ended = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if whence == os.SEEK_CUR:
            offset += self._position
        elif whence == os.SEEK_END:
            self.unpack(self._limit + 1)
            offset += len(self._content)
        if offset < 0:
            raise ValueError(f"negative seek position {offset}")
        self._position = offset
        return offset

    def readinto(self, buffer: Any, /) -> int:
        self.unpack(self._position + len(buffer))
        part = memoryview(self._content)[self._position : self._position + len(buffer)]
        with part:
            buffer[: len(part)] = part
            self._position += len(part)
            return len(part)

    def readall(self) -> bytes:
        self.unpack(self._limit + 1)
        start, self._position = self._position, max(self._position, len(self._content))
        return bytes(memoryview(self._content)[start:])

    def unpack(self, end: int) -> int:
        """Have the bytes up to ``end``, or all; returns how many there are. Raises SourceError past the limit."""
        while not self._ended and len(self._content) < end:
            with _damage_told():
                content = self._read(min(_STEP, end - len(self._content)))
            self._ended = not content
            if len(self._content) + len(content) > self._limit:
                raise SourceError(Reason.TOO_LARGE, f"more than {self._limit} bytes unpacked")
            self._content += content
        return len(self._content)


class _Inflater:
    """Inflates what follows in a stream: raw deflate (RFC 1951), in steps of bounded size."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; none at the end. Raises SourceError over damage."""
        try:
            while not self._inflate.eof:
                packed = self._inflate.unconsumed_tail or self._stream.read(_BLOCK)
                if not packed:
                    break
                content = self._inflate.decompress(packed, size)
                if content:
                    return content
        except zlib.error:
            _refuse("deflated data set is damaged")
        if not self._inflate.eof:
            _refuse("deflated data set is truncated")
        return b""


def _deflated_meta(start: bytes) -> bytes | None:
    """Preamble and file meta information of a data set that is deflated, or None for any other source.

    Raises SourceError where the meta information is not as PS3.10 7.1 wants it (explicit VR, defined lengths,
    within the first block): readers guess differently then whether the data set is deflated.
    """
    place = 132 if start[128:132] == b"DICM" else 0
    syntax = b""
    while start[place : place + 2] == b"\x02\x00":
        if len(start) < place + 12:
            if len(start) >= _BLOCK:
                _refuse("file meta information is too long")
            break
        element, vr, length = struct.unpack_from("<H2sH", start, place + 2)
        if not (vr.isalpha() and vr.isupper()):
            _refuse("file meta information is not in explicit VR")
        value = place + 8
        if vr.decode() in EXPLICIT_VR_LENGTH_32:
            (length,) = struct.unpack_from("<L", start, place + 8)
            value = place + 12
        place = value + length
        if place > len(start) and len(start) >= _BLOCK:
            _refuse("file meta information is too long")
        if element == _SYNTAX:
            syntax = start[value:place].rstrip(b"\0 ")
    return start[:place] if syntax == _DEFLATED else None


def _refuse(detail: str) -> NoReturn:
    raise SourceError(Reason.BAD_HEADER, detail)

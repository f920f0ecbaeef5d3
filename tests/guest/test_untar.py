"""Unpacking what a hostile guest sends: nothing outside the target is written, read or followed."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandsox.errors import BandSoxError, GuestFileError, InvalidRequest, LimitExceeded, ProtocolError
from bandsox.guest.untar import extract
from bandsox.models import TreeResult

BASE = b"tree"


def archive(*members: tarfile.TarInfo | tuple[str, bytes], pax: dict[str, str] | None = None) -> bytes:
    """A tar stream of files given by name and contents, or of whatever a TarInfo says."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            info, data = (member, b"") if isinstance(member, tarfile.TarInfo) else (tarfile.TarInfo(member[0]), member[1])
            if pax:
                info.pax_headers = pax
            info.size = info.size or len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def entry(name: str, kind: bytes, target: str = "", mode: int = 0o755) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, mode
    return info


def directory(name: str, mode: int = 0o755) -> tarfile.TarInfo:
    return entry(name, tarfile.DIRTYPE, mode=mode)


def symlink(name: str, target: str) -> tarfile.TarInfo:
    return entry(name, tarfile.SYMTYPE, target)


def hardlink(name: str, target: str) -> tarfile.TarInfo:
    return entry(name, tarfile.LNKTYPE, target)


def unpack(data: bytes, target: Path, *, piece: int = 1000, max_entries: int = 1000, max_bytes: int | None = 1 << 20) -> TreeResult:
    pieces = (data[start : start + piece] for start in range(0, len(data), piece))
    return extract(pieces, target, BASE, max_entries=max_entries, max_bytes=max_bytes)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory beside the target, with a file that must stay as it is."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "secret").write_text("untouched")
    return path


@pytest.fixture
def target(tmp_path: Path, outside: Path) -> Path:
    return tmp_path / "target"


def check_untouched(outside: Path) -> None:
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_text() == "untouched"
    assert stat.S_IMODE((outside / "secret").stat().st_mode) & 0o111 == 0
    assert {path.name for path in outside.parent.iterdir()} <= {"outside", "target"}


def test_a_tree(target: Path) -> None:
    members: list[tarfile.TarInfo | tuple[str, bytes]] = [
        directory("tree"),
        directory("tree/a", 0o500),
        ("tree/a/file", b"data" * 1000),
        symlink("tree/a/up", "../b"),
        ("tree/b", b""),
    ]
    for piece in (1, 511, 512, 513, 100_000):
        result = unpack(archive(*members), target, piece=piece)
        assert (target / "a/file").read_bytes() == b"data" * 1000
        assert (target / "a/up").readlink() == Path("../b")
        assert stat.S_IMODE((target / "a").stat().st_mode) == 0o500
        assert result == TreeResult(entries=4, bytes=4000, refused=0)


def test_names_are_bytes(target: Path) -> None:
    name = os.fsdecode(b"tree/\xff\n\x1b" + "ä".encode() + b"x" * 150)
    unpack(archive((name, b"1")), target)
    assert [os.fsencode(path.name) for path in target.iterdir()] == [os.fsencode(name)[5:]]


@pytest.mark.parametrize(
    "name",
    [
        "../outside/secret",
        "tree/../../outside/secret",
        "/etc/passwd",
        "tree//etc",
        "tree/./x",
        "tree/a/../x",
        "other/x",
        "treex",
        "tree/" + "x" * 256,
    ],
)
def test_a_name_that_leads_elsewhere(target: Path, outside: Path, name: str) -> None:
    with pytest.raises(ProtocolError):
        unpack(archive((name, b"owned")), target)
    check_untouched(outside)


@pytest.mark.parametrize("kind", ["directory", "file", "hard link target"])
def test_writing_through_a_symbolic_link(target: Path, outside: Path, kind: str) -> None:
    """The link was there already, as one that an earlier download refused to make would have to be."""
    target.mkdir()
    (target / "link").symlink_to(outside)
    (target / "secret").symlink_to(outside / "secret")
    attempts: dict[str, list[tarfile.TarInfo | tuple[str, bytes]]] = {
        "directory": [("tree/link/new", b"owned")],
        "file": [("tree/secret", b"replaced")],
        "hard link target": [hardlink("tree/x", "tree/link/secret"), ("tree/x", b"owned")],
    }
    try:
        unpack(archive(*attempts[kind]), target)
    except ProtocolError:
        assert kind != "file"
    else:
        assert (target / "secret").read_bytes() == b"replaced" and not (target / "secret").is_symlink()
    check_untouched(outside)


def test_a_directory_in_the_place_of_a_link_is_a_new_directory(target: Path, outside: Path) -> None:
    target.mkdir()
    (target / "link").symlink_to(outside)
    unpack(archive(directory("tree/link", 0o777), ("tree/link/secret", b"mine")), target)
    assert not (target / "link").is_symlink()
    check_untouched(outside)


@pytest.mark.parametrize(
    ("name", "link"),
    [
        ("tree/x", "/etc/passwd"),
        ("tree/x", "../outside"),
        ("tree/a/x", "../../outside"),
        ("tree/a/x", "../b/../../outside"),
        ("tree/a/x", "b/.."),
    ],
)
def test_a_link_that_could_lead_out_is_left_behind(target: Path, outside: Path, name: str, link: str) -> None:
    result = unpack(archive(directory("tree/a"), symlink(name, link)), target)
    assert result.refused == 1
    assert not os.path.lexists(target / name[5:])


def test_links_that_lead_out_together(target: Path, outside: Path) -> None:
    """``a/b/up`` stays within; ``..`` after it would not, though it looks as if it did."""
    members = [directory("tree/a"), directory("tree/a/b"), symlink("tree/a/b/up", "../.."), symlink("tree/out", "a/b/up/../outside")]
    unpack(archive(*members), target)
    assert (target / "a/b/up").resolve() == target.resolve()
    assert not os.path.lexists(target / "out")


def test_a_hard_link_does_not_move_a_symbolic_link_to_where_it_leads_out(target: Path) -> None:
    members = [directory("tree/a"), directory("tree/a/b"), symlink("tree/a/b/up", "../../x"), hardlink("tree/moved", "tree/a/b/up")]
    assert unpack(archive(*members), target).refused == 1
    assert not os.path.lexists(target / "moved")


def test_a_hard_link(target: Path) -> None:
    unpack(archive(("tree/one", b"1"), hardlink("tree/two", "tree/one")), target)
    assert (target / "one").stat().st_ino == (target / "two").stat().st_ino


def test_a_hard_link_to_outside(target: Path, outside: Path) -> None:
    for name in ("../outside/secret", "/etc/passwd", "tree/../../outside/secret"):
        with pytest.raises(ProtocolError):
            unpack(archive(hardlink("tree/x", name)), target)


def test_writing_to_a_hard_link_does_not_change_the_original(target: Path) -> None:
    target.mkdir()
    (target / "kept").write_text("kept")
    unpack(archive(hardlink("tree/new", "tree/kept"), ("tree/new", b"changed")), target)
    assert (target / "kept").read_text() == "kept"


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_and_pipes_are_left_behind(target: Path, kind: bytes) -> None:
    assert unpack(archive(entry("tree/x", kind)), target).refused == 1
    assert list(target.iterdir()) == []


def test_set_id_bits_are_dropped(target: Path) -> None:
    unpack(archive(entry("tree/x", tarfile.REGTYPE, mode=0o6755), directory("tree/d", 0o7777)), target)
    assert stat.S_IMODE((target / "x").stat().st_mode) & 0o7000 == 0
    assert stat.S_IMODE((target / "d").stat().st_mode) & 0o7000 == 0


def test_files_are_made_with_the_umask(target: Path) -> None:
    before = os.umask(0o027)
    try:
        unpack(archive(entry("tree/x", tarfile.REGTYPE, mode=0o666), directory("tree/d", 0o777)), target)
    finally:
        os.umask(before)
    assert stat.S_IMODE((target / "x").stat().st_mode) == 0o640
    assert stat.S_IMODE((target / "d").stat().st_mode) == 0o750


def test_too_many_entries(target: Path) -> None:
    with pytest.raises(LimitExceeded):
        unpack(archive(*((f"tree/{number}", b"") for number in range(11))), target, max_entries=10)
    assert len(list(target.iterdir())) == 10


def test_too_many_bytes_are_refused_before_the_first(target: Path) -> None:
    with pytest.raises(LimitExceeded):
        unpack(archive(("tree/x", bytes(2 << 20))), target)
    assert list(target.iterdir()) == []


def test_a_file_that_breaks_off_leaves_nothing(target: Path) -> None:
    with pytest.raises(ProtocolError, match="in the middle"):
        unpack(archive(("tree/x", bytes(100_000)))[:50_000], target)
    assert list(target.iterdir()) == []


def test_a_file_where_a_directory_was_asked_for(target: Path) -> None:
    with pytest.raises(GuestFileError) as failure:
        unpack(archive(("tree", b"x")), target)
    assert failure.value.guest_code == "not_a_directory"


def test_a_directory_of_the_host_is_not_replaced_by_a_file(target: Path) -> None:
    (target / "x/y").mkdir(parents=True)
    with pytest.raises(InvalidRequest):
        unpack(archive(("tree/x", b"")), target)
    assert (target / "x/y").is_dir()


def test_an_entry_without_its_directory(target: Path) -> None:
    with pytest.raises(ProtocolError):
        unpack(archive(("tree/missing/x", b"")), target)


def test_data_after_the_end(target: Path) -> None:
    with pytest.raises(ProtocolError, match="after its end"):
        unpack(archive(("tree/x", b"")) + bytes(2 << 20), target)


# ── holes ───────────────────────────────────────────────────────────────────────────────────────


def sparse(spans: list[tuple[int, int]], data: bytes, size: int) -> bytes:
    lines = f"{len(spans)}\n" + "".join(f"{offset}\n{length}\n" for offset, length in spans)
    body = lines.encode() + bytes(-len(lines) % 512) + data
    pax = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "tree/holes", "GNU.sparse.realsize": str(size)}
    return archive(("GNUSparseFile.0/holes", body), pax=pax)


@pytest.mark.parametrize("piece", [1, 512, 100_000])
def test_a_file_with_holes(target: Path, piece: int) -> None:
    unpack(sparse([(4096, 3), (900_000, 2), (1_000_000, 0)], b"abcde", 1_000_000), target, piece=piece)
    contents = (target / "holes").read_bytes()
    assert contents == bytes(4096) + b"abc" + bytes(900_000 - 4099) + b"de" + bytes(1_000_000 - 900_002)
    assert (target / "holes").stat().st_blocks * 512 < 100_000


@pytest.mark.parametrize(
    "spans",
    [[(0, 6)], [(0, 4)], [(3, 2), (0, 3)], [(0, 3), (2, 2)], [(99_999, 5)], [(2**61, 5)], []],
)
def test_a_file_with_holes_that_do_not_fit(target: Path, spans: list[tuple[int, int]]) -> None:
    with pytest.raises(ProtocolError):
        unpack(sparse(spans, b"abcde", 100_000), target)


# ── bytes that are no archive ───────────────────────────────────────────────────────────────────


GOOD = archive(directory("tree/a"), ("tree/a/f", b"x" * 700), symlink("tree/s", "a/f"), ("tree/" + "n" * 120, b"y"))
GOOD += sparse([(0, 5)], b"abcde", 5)


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4), st.booleans())
def test_a_damaged_archive_is_refused_or_unpacked_within_the_target(
    tmp_path_factory: pytest.TempPathFactory, damages: list[tuple[int, int]], sealed: bool
) -> None:
    """With checksums that fit, so that the fields behind them are looked at, or as it is."""
    damaged = bytearray(GOOD)
    for position, value in damages:
        damaged[position] = value
        if sealed:
            start = position - position % 512
            block = damaged[start : start + 512]
            block[148:156] = b" " * 8
            damaged[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    here = tmp_path_factory.mktemp("damaged")
    with contextlib.suppress(BandSoxError, OSError):
        unpack(bytes(damaged), here / "target")
    assert {path.name for path in here.iterdir()} <= {"target"}


@given(st.binary(max_size=3000))
def test_any_bytes_are_refused_or_empty(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack(data or b"x", tmp_path_factory.mktemp("garbage"))


def test_an_extended_header_without_end_is_not_read_into_memory(target: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 33
    with pytest.raises(ProtocolError, match="too long"):
        unpack(info.tobuf(tarfile.GNU_FORMAT) + bytes(5000), target)

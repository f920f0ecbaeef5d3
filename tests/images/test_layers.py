"""What a stack of layers amounts to: OCI image-spec, layer.md, and every nasty archive we could think of."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
import zstandard

from bandsox.errors import CorruptImage, DigestMismatch
from bandsox.images.limits import Limits
from tests.images.conftest import Squash
from tests.images.tars import Tar, gnu_sparse, sha256
from tests.images.trees import content, links_of_squashfs, tree_of_squashfs

RANDOM = os.urandom(300_000)


def names(image: Path) -> set[str]:
    return {os.fsdecode(name) for name in tree_of_squashfs(image)}


# ── one layer ───────────────────────────────────────────────────────────────────────────────────


def test_a_file_keeps_mode_owner_time_and_content(squash: Squash) -> None:
    tree = tree_of_squashfs(squash(Tar().file("a", b"hello", mode=0o4751, uid=1000, gid=70000, mtime=1234567890).bytes()))
    file = tree[b"a"]
    assert (file.mode, file.uid, file.gid, file.mtime, file.content) == (0o4751, 1000, 70000, 1234567890, content(b"hello"))


@pytest.mark.parametrize("size", [0, 1, 4095, 131071, 131072, 131073, 262144, 1_000_000])
def test_files_of_every_size_around_the_block_size_are_whole(squash: Squash, size: int) -> None:
    data = os.urandom(size)
    assert tree_of_squashfs(squash(Tar().file("f", data).bytes()))[b"f"].content == content(data)


def test_compressible_incompressible_and_zero_blocks_in_one_file(squash: Squash) -> None:
    data = RANDOM + bytes(500_000) + b"ab" * 200_000 + bytes(131072)
    assert tree_of_squashfs(squash(Tar().file("f", data).bytes()))[b"f"].content == content(data)


def test_devices_fifos_and_symlinks(squash: Squash) -> None:
    tar = Tar().entry("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666).entry("loop", tarfile.BLKTYPE, devmajor=7, devminor=300)
    tree = tree_of_squashfs(squash(tar.entry("pipe", tarfile.FIFOTYPE).symlink("link", "../some where\n").bytes()))
    assert (tree[b"null"].kind, tree[b"null"].device, tree[b"null"].mode) == ("character", (1, 3), 0o666)
    assert (tree[b"loop"].kind, tree[b"loop"].device) == ("block", (7, 300))
    assert tree[b"pipe"].kind == "fifo"
    assert tree[b"link"].content == "../some where\n"


def test_the_root_directory_has_the_attributes_of_its_entry(squash: Squash) -> None:
    tar = Tar().directory("./", mode=0o1710, uid=12, gid=13, mtime=99, xattrs={"user.of": b"root"})
    root = tree_of_squashfs(squash(tar.bytes()))[b"."]
    assert (root.mode, root.uid, root.gid, root.mtime, root.xattrs) == (0o1710, 12, 13, 99, (("user.of", b"root"),))


def test_without_an_entry_the_root_belongs_to_root_whoever_converts(squash: Squash) -> None:
    root = tree_of_squashfs(squash(Tar().file("a").bytes()))[b"."]
    assert (root.mode, root.uid, root.gid, root.mtime) == (0o755, 0, 0, 0)


def test_extended_attributes_and_capabilities(squash: Squash) -> None:
    capability = b"\x01\x00\x00\x02\x00\x20\x00\x00" + bytes(12)
    values = {"security.capability": capability, "user.x": b"\0binary\n=\xff", "trusted.t": b"", "user.empty": b""}
    tree = tree_of_squashfs(squash(Tar().file("ping", b"x", xattrs=values).directory("d", xattrs={"user.d": b"1"}).bytes()))
    assert dict(tree[b"ping"].xattrs) == values
    assert dict(tree[b"d"].xattrs) == {"user.d": b"1"}


def test_attributes_that_squashfs_cannot_hold_or_overlayfs_would_act_on_are_left_out(squash: Squash) -> None:
    values = {"system.posix_acl_access": b"x", "trusted.overlay.opaque": b"y", "user.overlay.redirect": b"/", "user.kept": b"1"}
    assert tree_of_squashfs(squash(Tar().file("f", xattrs=values).bytes()))[b"f"].xattrs == (("user.kept", b"1"),)


def test_libarchive_attributes_count_where_there_are_no_schily_ones(squash: Squash) -> None:
    tar = Tar().file("f", pax={"LIBARCHIVE.xattr.user.a%20b": "aGVsbG8", "LIBARCHIVE.xattr.user.c": "eA", "SCHILY.xattr.user.c": "y"})
    assert dict(tree_of_squashfs(squash(tar.bytes()))[b"f"].xattrs) == {"user.a b": b"hello", "user.c": b"y"}


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_and_long_link_targets(squash: Squash, form: int) -> None:
    name = "/".join(["d" * 200] * 5) + "/" + "f" * 255
    target = "t" * 3000
    tree = tree_of_squashfs(squash(Tar().file(name, b"x", format=form).symlink("l", target, format=form).bytes()))
    assert name.encode() in tree
    assert tree[b"l"].content == target


def test_names_that_ustar_splits_into_a_prefix(squash: Squash) -> None:
    name = "p" * 120 + "/" + "n" * 90
    assert name.encode() in tree_of_squashfs(squash(Tar().file(name, format=tarfile.USTAR_FORMAT).bytes()))


def test_names_are_bytes_that_need_not_be_utf8(squash: Squash) -> None:
    odd = [b"\xff\xfe", b"a\nb", b"tab\t", b" blank ", b"quote'\"", b"\x01", "ünï".encode(), b"back\\slash", b"...", b"..a"]
    tar = Tar()
    for name in odd:
        tar.file(name, name, format=tarfile.GNU_FORMAT)
    tree = tree_of_squashfs(squash(tar.bytes()))
    assert {name for name in tree if name != b"."} == set(odd)


def test_numbers_beyond_octal_digits(squash: Squash) -> None:
    tar = Tar().file("gnu", uid=4_000_000_000, mtime=2**32 - 1, format=tarfile.GNU_FORMAT)
    tar.file("pax", pax={"uid": "4000000001", "gid": "4294967294", "mtime": "1234.999"})
    tree = tree_of_squashfs(squash(tar.bytes()))
    assert (tree[b"gnu"].uid, tree[b"gnu"].mtime) == (4_000_000_000, 2**32 - 1)
    assert (tree[b"pax"].uid, tree[b"pax"].gid, tree[b"pax"].mtime) == (4_000_000_001, 4_294_967_294, 1234)


def test_times_before_the_epoch_and_after_2106_are_bounded(squash: Squash) -> None:
    tree = tree_of_squashfs(squash(Tar().file("old", pax={"mtime": "-5.5"}).file("new", pax={"mtime": "99999999999"}).bytes()))
    assert (tree[b"old"].mtime, tree[b"new"].mtime) == (0, 2**32 - 1)


def test_global_pax_headers_hold_until_they_are_overridden(squash: Squash) -> None:
    tar = Tar().pax({b"uid": b"77", b"comment": b"git"}, b"g").file("a").file("b", pax={"uid": "78"})
    tree = tree_of_squashfs(squash(tar.bytes()))
    assert (tree[b"a"].uid, tree[b"b"].uid) == (77, 78)


@pytest.mark.parametrize("version", ["old", "0.0", "0.1", "1.0"])
@pytest.mark.parametrize("count", [1, 3, 60])
def test_sparse_files_in_every_format(squash: Squash, version: str, count: int) -> None:
    pieces = [(number * 10_000 + 513, os.urandom(1024)) for number in range(count)]
    size = count * 10_000 + 5_000_000
    expected = bytearray(size)
    for offset, data in pieces:
        expected[offset : offset + len(data)] = data
    archive = gnu_sparse("dir/sparse", pieces, size, version)
    tree = tree_of_squashfs(squash(archive[:-1024] + Tar().file("after", b"x").bytes()))
    assert tree[b"dir/sparse"].content == content(bytes(expected))
    assert tree[b"after"].content == content(b"x")


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_a_sparse_file_as_gnu_tar_writes_it(squash: Squash, tmp_path: Path, form: str) -> None:
    with (tmp_path / "s").open("wb") as file:
        file.seek(3_000_000)
        file.write(b"middle")
        file.truncate(9_999_999)
    archive = subprocess.run(["tar", f"--format={form}", "-S", "-C", tmp_path, "-cf", "-", "s"], capture_output=True, check=True).stdout
    assert len(archive) < 100_000
    assert tree_of_squashfs(squash(archive))[b"s"].content == content((tmp_path / "s").read_bytes())


def test_a_name_that_comes_twice_is_what_came_last(squash: Squash) -> None:
    tar = Tar().file("a", b"first", mode=0o600).file("b", RANDOM).file("./a", b"second", mode=0o644).file("b", b"small")
    tree = tree_of_squashfs(squash(tar.bytes()))
    assert (tree[b"a"].content, tree[b"a"].mode) == (content(b"second"), 0o644)
    assert tree[b"b"].content == content(b"small")


def test_children_may_come_before_their_directory(squash: Squash) -> None:
    tree = tree_of_squashfs(squash(Tar().file("a/b/c", b"x").directory("a/b", mode=0o700, uid=5).directory("a", mode=0o711).bytes()))
    assert (tree[b"a"].mode, tree[b"a/b"].mode, tree[b"a/b"].uid, tree[b"a/b/c"].content) == (0o711, 0o700, 5, content(b"x"))


def test_missing_directories_are_made_for_root(squash: Squash) -> None:
    made = tree_of_squashfs(squash(Tar().file("x/y/z").bytes()))[b"x/y"]
    assert (made.kind, made.mode, made.uid, made.gid, made.mtime) == ("directory", 0o755, 0, 0, 0)


def test_leading_slashes_and_dots_mean_the_root(squash: Squash) -> None:
    assert names(squash(Tar().file("/abs").file("./dot").file("//a//./b").directory("/").bytes())) == {".", "abs", "dot", "a", "a/b"}


def test_an_old_archive_marks_directories_by_a_slash(squash: Squash) -> None:
    info = tarfile.TarInfo("old/")
    info.type = tarfile.AREGTYPE
    archive = info.tobuf(tarfile.USTAR_FORMAT) + bytes(1024)
    assert tree_of_squashfs(squash(archive))[b"old"].kind == "directory"


def test_hard_links_are_one_file(squash: Squash) -> None:
    tar = Tar().file("a", b"data").hardlink("b", "a").hardlink("d/c", "./b").symlink("s", "x").hardlink("t", "/s")
    image = squash(tar.bytes())
    assert links_of_squashfs(image) == {frozenset([b"a", b"b", b"d/c"]), frozenset([b"s", b"t"])}
    assert tree_of_squashfs(image)[b"d/c"].content == content(b"data")


def test_a_hard_link_to_itself_changes_nothing(squash: Squash) -> None:
    assert tree_of_squashfs(squash(Tar().file("a", b"data").hardlink("a", "a").bytes()))[b"a"].content == content(b"data")


def test_equal_files_are_stored_once(squash: Squash) -> None:
    tar = Tar()
    for number in range(20):
        tar.file(f"large{number}", RANDOM).file(f"small{number}", RANDOM[:50_000])
    image = squash(tar.bytes())
    assert image.stat().st_size < 500_000
    assert tree_of_squashfs(image)[b"large19"].content == content(RANDOM)


def test_a_directory_with_very_many_files(squash: Squash) -> None:
    tar = Tar()
    for number in range(20_000):
        tar.data += tarfile.TarInfo(f"d/file-with-a-name-{number:06}").tobuf(tarfile.USTAR_FORMAT)
    image = squash(tar.bytes())
    assert len(names(image)) == 20_002
    listed = subprocess.run(["unsquashfs", "-ll", image, "d/file-with-a-name-013777"], capture_output=True, text=True, check=True).stdout
    assert "file-with-a-name-013777" in listed


def test_the_result_is_the_same_to_the_byte(squash: Squash) -> None:
    archive = Tar().file("a", RANDOM).file("b", b"x" * 1000).directory("d", uid=9).symlink("s", "a").bytes()
    first = squash(archive).read_bytes()
    assert squash(archive).read_bytes() == first


def test_no_layers_are_an_empty_root(squash: Squash) -> None:
    assert names(squash()) == {"."}


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_the_kernel_mounts_and_reads_it(squash: Squash, tmp_path: Path) -> None:
    tar = Tar().file("a", RANDOM, xattrs={"user.k": b"v"}).hardlink("b", "a").entry("n", tarfile.CHRTYPE, devmajor=1, devminor=3)
    for number in range(3000):
        tar.file(f"many/{number}", str(number).encode() * 50, uid=number)
    point = tmp_path / "mount"
    point.mkdir()
    subprocess.run(["mount", "-o", "loop,ro", squash(tar.bytes()), point], check=True)
    try:
        assert (point / "a").read_bytes() == RANDOM
        assert (point / "b").stat().st_nlink == 2
        assert os.getxattr(point / "a", "user.k") == b"v"
        assert sorted((path.name for path in (point / "many").iterdir()), key=int) == [str(number) for number in range(3000)]
        assert all((point / "many" / str(n)).read_bytes() == str(n).encode() * 50 for n in range(0, 3000, 7))
        assert (point / "many" / "2999").stat().st_uid == 2999
    finally:
        subprocess.run(["umount", point], check=True)


# ── several layers ──────────────────────────────────────────────────────────────────────────────


def test_an_upper_file_replaces_a_lower_one(squash: Squash) -> None:
    assert tree_of_squashfs(squash(Tar().file("a", b"1").bytes(), Tar().file("a", b"2").bytes()))[b"a"].content == content(b"2")


def test_an_upper_directory_keeps_lower_children_and_takes_new_attributes(squash: Squash) -> None:
    lower = Tar().directory("d", mode=0o755, xattrs={"user.a": b"1"}).file("d/f", b"x")
    tree = tree_of_squashfs(squash(lower.bytes(), Tar().directory("d", mode=0o700, uid=3).bytes()))
    assert (tree[b"d"].mode, tree[b"d"].uid, tree[b"d"].xattrs) == (0o700, 3, ())
    assert b"d/f" in tree


def test_a_file_replaces_a_directory_and_a_directory_a_file(squash: Squash) -> None:
    lower = Tar().directory("a").file("a/inside", b"x").file("b", b"y")
    tree = tree_of_squashfs(squash(lower.bytes(), Tar().file("a", b"now a file").directory("b").file("b/new").bytes()))
    assert tree[b"a"].kind == "file"
    assert b"a/inside" not in tree
    assert (tree[b"b"].kind, tree[b"b/new"].kind) == ("directory", "file")


def test_a_whiteout_hides_a_file_a_directory_and_nothing(squash: Squash) -> None:
    lower = Tar().file("f").file("d/a").file("d/b/c").file("kept")
    upper = Tar().whiteout("f").whiteout("d").whiteout("never-was").whiteout("kept/x")
    assert names(squash(lower.bytes(), upper.bytes())) == {".", "kept"}


@pytest.mark.parametrize("first", ["whiteout", "entry"])
def test_a_whiteout_hides_lower_layers_only_wherever_it_stands(squash: Squash, first: str) -> None:
    lower = Tar().file("f", b"old").file("d/old", b"x").directory("d", mode=0o700)
    whiteouts = Tar().whiteout("f").whiteout("d")
    entries = Tar().file("f", b"new").file("d/new", b"y")
    upper = whiteouts.data + entries.data if first == "whiteout" else entries.data + whiteouts.data
    tree = tree_of_squashfs(squash(lower.bytes(), bytes(upper) + bytes(1024)))
    assert set(tree) == {b".", b"f", b"d", b"d/new"}
    assert tree[b"f"].content == content(b"new")
    assert tree[b"d"].mode == 0o755


@pytest.mark.parametrize("first", ["opaque", "entry"])
def test_an_opaque_directory_hides_lower_children_only(squash: Squash, first: str) -> None:
    lower = Tar().directory("d", mode=0o750).file("d/old").file("d/sub/old").file("d/sub/both", b"old")
    opaque, entries = Tar().opaque("d"), Tar().file("d/new").file("d/sub/new").file("d/sub/both", b"new")
    upper = opaque.data + entries.data if first == "opaque" else entries.data + opaque.data
    tree = tree_of_squashfs(squash(lower.bytes(), bytes(upper) + bytes(1024)))
    assert set(tree) == {b".", b"d", b"d/new", b"d/sub", b"d/sub/new", b"d/sub/both"}
    assert tree[b"d"].mode == 0o750
    assert tree[b"d/sub/both"].content == content(b"new")


def test_whiteouts_of_a_first_layer_and_of_aufs_leave_no_trace(squash: Squash) -> None:
    tar = Tar().whiteout("x").opaque("d").file("d/a").file(".wh..wh.aufs").directory(".wh..wh.plnk").file(".wh..wh.plnk/1.2", b"linked")
    image = squash(tar.hardlink("b", ".wh..wh.plnk/1.2").bytes())
    assert names(image) == {".", "d", "d/a", "b"}
    assert tree_of_squashfs(image)[b"b"].content == content(b"linked")


def test_a_hard_link_across_layers_survives_the_name_it_pointed_to(squash: Squash) -> None:
    image = squash(Tar().file("a", RANDOM).bytes(), Tar().hardlink("b", "a").bytes(), Tar().whiteout("a").bytes())
    tree = tree_of_squashfs(image)
    assert set(tree) == {b".", b"b"}
    assert tree[b"b"].content == content(RANDOM)


def test_a_link_made_before_its_target_was_replaced_keeps_the_old_content(squash: Squash) -> None:
    image = squash(Tar().file("a", b"old").hardlink("b", "a").bytes(), Tar().file("a", b"new").bytes())
    tree = tree_of_squashfs(image)
    assert (tree[b"a"].content, tree[b"b"].content) == (content(b"new"), content(b"old"))
    assert links_of_squashfs(image) == set()


def test_a_rename_as_link_and_whiteout_in_one_layer(squash: Squash) -> None:
    image = squash(Tar().file("a", b"data").bytes(), Tar().hardlink("b", "a").whiteout("a").bytes())
    assert names(image) == {".", "b"}


def test_entries_below_a_symbolic_link_land_where_it_points(squash: Squash) -> None:
    lower = Tar().directory("usr/lib").symlink("lib", "usr/lib").symlink("abs", "/usr/lib").symlink("up", "../../usr")
    upper = Tar().file("lib/a", b"1").file("abs/b", b"2").file("up/lib/c", b"3").hardlink("d", "lib/a").whiteout("lib/gone")
    tree = tree_of_squashfs(squash(lower.file("usr/lib/gone").bytes(), upper.bytes()))
    assert {name for name in tree if name.startswith(b"usr/lib/")} == {b"usr/lib/a", b"usr/lib/b", b"usr/lib/c"}
    assert tree[b"lib"].kind == "symlink"
    assert tree[b"d"].content == content(b"1")


def test_a_symbolic_link_out_of_the_image_stays_inside_it(squash: Squash) -> None:
    lower = Tar().symlink("etc", "/../../../../tmp/../../made")
    assert {"made", "made/passwd"} <= names(squash(lower.bytes(), Tar().file("etc/passwd", b"x").bytes()))


def test_a_directory_replaces_a_symbolic_link(squash: Squash) -> None:
    lower = Tar().directory("real").file("real/a").symlink("link", "real")
    tree = tree_of_squashfs(squash(lower.bytes(), Tar().directory("link").file("link/b").bytes()))
    assert tree[b"link"].kind == "directory"
    assert b"real/b" not in tree
    assert b"link/b" in tree


def test_a_replaced_symbolic_link_is_followed_to_its_new_target(squash: Squash) -> None:
    tar = Tar().symlink("l", "one").file("l/a").symlink("l", "two").file("l/b")
    assert {"one/a", "two/b"} <= names(squash(tar.bytes()))


def test_what_upper_layers_hid_takes_no_room(squash: Squash) -> None:
    big = os.urandom(8_000_000)
    image = squash(Tar().file("big", big).file("kept", RANDOM).bytes(), Tar().whiteout("big").bytes())
    assert image.stat().st_blocks * 512 < 1_000_000
    assert tree_of_squashfs(image)[b"kept"].content == content(RANDOM)


# ── compression ─────────────────────────────────────────────────────────────────────────────────

ARCHIVE = Tar().file("a", RANDOM * 10).file("b", b"text " * 100_000).bytes()
_HALF = len(ARCHIVE) // 2
COMPRESSED = {
    "none": ARCHIVE,
    "gzip": gzip.compress(ARCHIVE, 6),
    "gzip members": gzip.compress(ARCHIVE[:_HALF]) + gzip.compress(ARCHIVE[_HALF:]),
    "gzip padded": gzip.compress(ARCHIVE) + bytes(1000),
    "zstd": zstandard.compress(ARCHIVE),
    "zstd frames": zstandard.compress(ARCHIVE[:_HALF]) + b"\x50\x2a\x4d\x18\x04\0\0\0skip" + zstandard.compress(ARCHIVE[_HALF:]),
    "zstd skippable first": b"\x51\x2a\x4d\x18\x04\0\0\0skip" + zstandard.compress(ARCHIVE),
    "xz": lzma.compress(ARCHIVE),
    "bzip2": bz2.compress(ARCHIVE),
}


@pytest.mark.parametrize("name", COMPRESSED)
def test_every_compression(squash: Squash, name: str) -> None:
    tree = tree_of_squashfs(squash(COMPRESSED[name], diff_ids=[sha256(ARCHIVE)]))
    assert (tree[b"a"].content, tree[b"b"].content) == (content(RANDOM * 10), content(b"text " * 100_000))


@pytest.mark.parametrize("name", ["none", "gzip", "gzip members", "zstd", "xz", "bzip2"])
@pytest.mark.parametrize("part", [0.2, 0.9, 0.9999])
def test_a_truncated_layer_is_refused(squash: Squash, name: str, part: float) -> None:
    data = COMPRESSED[name]
    with pytest.raises((CorruptImage, DigestMismatch)):
        squash(data[: int(len(data) * part)], diff_ids=[sha256(ARCHIVE)])


@pytest.mark.parametrize("name", ["gzip", "zstd", "xz", "bzip2"])
def test_a_damaged_layer_is_refused(squash: Squash, name: str) -> None:
    data = bytearray(COMPRESSED[name])
    data[len(data) // 2] ^= 0xFF
    with pytest.raises((CorruptImage, DigestMismatch)):
        squash(bytes(data), diff_ids=[sha256(ARCHIVE)])


def test_garbage_after_gzip_is_refused(squash: Squash) -> None:
    with pytest.raises(CorruptImage):
        squash(gzip.compress(ARCHIVE) + b"garbage", diff_ids=[sha256(ARCHIVE)])


def test_other_content_than_the_configuration_says_is_refused(squash: Squash) -> None:
    with pytest.raises(DigestMismatch, match="layer 0"):
        squash(ARCHIVE, diff_ids=[sha256(b"something else")])


@pytest.mark.parametrize("require_end", [True, False])
def test_an_archive_without_its_end_mark(squash: Squash, require_end: bool) -> None:
    archive = bytes(Tar().file("a", b"x").data)
    if require_end:
        with pytest.raises(CorruptImage, match="ends in the middle"):
            squash(archive, require_end=True)
    else:
        assert names(squash(archive)) == {".", "a"}


# ── malice ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/../evil", "..", "a/.."])
def test_a_name_that_leads_out_of_the_root_is_refused(squash: Squash, name: str) -> None:
    with pytest.raises(CorruptImage, match="leads out"):
        squash(Tar().file(name, format=tarfile.GNU_FORMAT).bytes())


@pytest.mark.parametrize(
    ("tar", "message"),
    [
        (Tar().hardlink("a", "missing"), "which does not exist"),
        (Tar().directory("d").hardlink("a", "d"), "which is a directory"),
        (Tar().hardlink("a", "../../etc/shadow"), "leads out"),
        (Tar().symlink("a", "b").symlink("b", "a").file("a/x"), "too many symbolic links"),
        (Tar().file(".", b"x"), "root is not a directory"),
        (Tar().file("n" * 256), "longer than 255"),
        (Tar().file("/".join("d" * 100 for _ in range(50))), "Linux allows 4096"),
        (Tar().file("x", pax={"path": "a\0b"}), "NUL"),
        (Tar().symlink("l", ""), "target of 0 bytes"),
        (Tar().symlink("l", "x" * 4096), "target of 4096 bytes"),
        (Tar().file("x", pax={"uid": "4294967295"}), "cannot be"),
        (Tar().file("x", pax={"uid": "nobody"}), "a number that is none"),
        (Tar().file("x", pax={"size": "99999999999999999"}), "size"),
        (Tar().entry("x", b"3", devmajor=5000, devminor=1), "impossible number"),
        (Tar().file("x", pax={"SCHILY.xattr.user.big": "v" * 70_000}), "too long"),
        (Tar().entry("x", b"M", b"rest"), "one volume of several"),
        (Tar().entry("x", b"x", b"nonsense"), "malformed"),
        (Tar().entry("x", b"x", b"99 a=b\n"), "malformed"),
    ],
)
def test_a_malicious_or_broken_entry_is_refused(squash: Squash, tar: Tar, message: str) -> None:
    with pytest.raises(CorruptImage, match=message):
        squash(tar.bytes())


def test_a_wrong_header_checksum_is_refused(squash: Squash) -> None:
    archive = bytearray(Tar().file("a", b"x").bytes())
    archive[0] ^= 1
    with pytest.raises(CorruptImage, match="checksum"):
        squash(bytes(archive))


@pytest.mark.parametrize("version", ["old", "0.0", "0.1", "1.0"])
def test_a_sparse_map_that_lies_is_refused(squash: Squash, version: str) -> None:
    with pytest.raises(CorruptImage, match="sparse"):
        squash(gnu_sparse("s", [(0, b"x" * 512), (100, b"y" * 512)], 10_000, version))
    with pytest.raises(CorruptImage, match="sparse"):
        squash(gnu_sparse("s", [(0, b"x" * 512)], 100, version))


def test_a_decompression_bomb_is_stopped_at_the_limit(squash: Squash) -> None:
    for bomb in (gzip.compress(bytes(50_000_000)), zstandard.compress(bytes(50_000_000))):
        with pytest.raises(CorruptImage, match="larger than 16 MiB"):
            squash(bomb, limits=Limits(unpacked=16 << 20))


def test_holes_of_sparse_files_count_against_the_limit(squash: Squash) -> None:
    tar = b"".join(gnu_sparse(f"s{number}", [(0, b"x" * 512)], 10 << 20, "1.0")[:-1024] for number in range(4))
    with pytest.raises(CorruptImage, match="larger than 16 MiB"):
        squash(tar + bytes(1024), limits=Limits(unpacked=16 << 20))


def test_more_files_than_the_limit_are_refused(squash: Squash) -> None:
    tar = Tar()
    for number in range(11):
        tar.file(str(number))
    with pytest.raises(CorruptImage, match="more than 10 files"):
        squash(tar.bytes(), limits=Limits(files=10))


def test_random_bytes_are_refused(squash: Squash) -> None:
    for _ in range(50):
        with pytest.raises(CorruptImage):
            squash(os.urandom(2048))


def test_nothing_of_an_image_touches_the_file_system(squash: Squash, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    squash(Tar().file("escaped", b"x").symlink("s", "/etc").directory("dir").bytes())
    assert {path.name for path in set(tmp_path.rglob("*")) - before} <= {"layer0", "image.squashfs"}


def test_an_archive_of_pythons_own_tarfile_is_read_alike(squash: Squash, tmp_path: Path) -> None:
    """The standard library as a second opinion on an ordinary archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(Path(tarfile.__file__).parent / "json", arcname="json")
    tree = tree_of_squashfs(squash(buffer.getvalue()))
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as archive:
        for member in archive:
            file = tree[member.name.encode()]
            assert (file.mode, file.uid, file.mtime) == (member.mode & 0o7777, member.uid, int(member.mtime))

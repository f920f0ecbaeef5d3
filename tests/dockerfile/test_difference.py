"""The layer of one RUN: what lies between two states of a writable layer, applied by the same code that makes images."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from bandsox.dockerfile.difference import Excluded, UpperState, read_state, write_difference
from bandsox.dockerfile.layers import read_index
from bandsox.dockerfile.tarwrite import LayerWriter
from bandsox.dockerfile.view import View
from bandsox.errors import CorruptImage
from bandsox.images.tree import Kind

BASE = {"b/": "", "b/low": "low", "b/c/": "", "b/c/deep": "deep", "etc/": "", "etc/hosts": "image's"}


def make_layer(path: Path, entries: dict[str, str]) -> Path:
    """A layer: names that end with a slash are directories, contents that begin with ``=`` hard links."""
    with tarfile.open(path, "w") as archive:
        for name, content in entries.items():
            info = tarfile.TarInfo(name.rstrip("/"))
            info.mode = 0o755
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
            elif content.startswith("="):
                info.type, info.linkname = tarfile.LNKTYPE, content[1:]
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content.encode()))
    return path


def files(*layers: Path) -> dict[str, str]:
    """What a stack of layers amounts to."""
    view = View(None, tuple(read_index(layer) for layer in layers))
    return {
        b"/".join(path).decode(): b"".join(node.read()).decode() if node.kind is Kind.FILE else "/"
        for path, node in view.walk(())
    }  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"b/": "", "b/new": "1"}),
        ({"b/": "", "b/x": "1"}, {"b/": "", "b/x": "2"}),
        ({"b/": "", "b/x": "1"}, {"b/": ""}),
        ({"n/": "", "n/m/": "", "n/m/x": "1"}, {}),
        ({"n/": "", "n/x": "1"}, {"n": "now a file"}),
        ({"n": "a file"}, {"n/": "", "n/x": "1"}),
        ({}, {"b/": "", "b/.wh.low": ""}),
        ({"b/": "", "b/.wh.low": ""}, {"b/": "", "b/low": "again"}),
        ({"b/": "", "b/low": "changed"}, {"b/": "", "b/.wh.low": ""}),
        ({"b/": "", "b/x": "1", "b/y": "2"}, {"b/": "", "b/.wh..wh..opq": "", "b/x": "1"}),
        ({"b/": "", "b/.wh..wh..opq": "", "b/x": "1", "b/y": "2"}, {"b/": "", "b/.wh..wh..opq": "", "b/x": "1"}),
        ({"b/": "", "b/c/": "", "b/c/n": "1"}, {".wh.b": ""}),
        ({".wh.b": ""}, {"b/": "", "b/.wh..wh..opq": "", "b/c/": "", "b/c/n": "1"}),
        ({"b/": "", "b/f": "1", "b/g": "=b/f"}, {"b/": "", "b/f": "2", "b/g": "=b/f"}),
        ({"b/": "", "b/f": "1"}, {"b/": "", "b/f": "1", "b/g": "=b/f"}),
        ({"b/": "", "b/f": "1", "b/g": "=b/f"}, {"b/": "", "b/g": "1"}),
    ],
)
def test_the_difference_leads_from_one_state_to_the_other(tmp_path: Path, before: dict[str, str], after: dict[str, str]) -> None:
    base, first, second = (make_layer(tmp_path / name, entries) for name, entries in (("0", BASE), ("1", before), ("2", after)))
    with LayerWriter(tmp_path / "d") as writer:
        write_difference(read_state(first), read_state(second), second, Excluded(), writer)
        writer.close()
    assert files(base, first, tmp_path / "d") == files(base, second)


def test_nothing_changed_gives_nothing(tmp_path: Path) -> None:
    layer = make_layer(tmp_path / "1", {"b/": "", "b/x": "1", "b/.wh.low": "", "b/g": "=b/x"})
    with LayerWriter(tmp_path / "d") as writer:
        write_difference(read_state(layer), read_state(layer), layer, Excluded(), writer)
        assert writer.entries == 0


def test_a_machines_own_files_and_mounts_are_no_part_of_it(tmp_path: Path) -> None:
    entries = {"etc/": "", "etc/hosts": "machine's", "m/": "", "m/t/": "", "m/t/x": "1", "n/": "", "n/t/": "", "n/y": "2"}
    layer = make_layer(tmp_path / "1", {**entries, "run/bandsox-build/s": "3"})
    excluded = Excluded(trees=((b"m", b"t"), (b"n", b"t")), stubs=((b"m",), (b"n",)))
    with LayerWriter(tmp_path / "d") as writer:
        write_difference(UpperState(), read_state(layer, excluded), layer, excluded, writer)
        writer.close()
    assert set(files(tmp_path / "d")) == {"etc", "n", "n/y"}


def test_what_a_mount_covers_is_not_taken_for_removed(tmp_path: Path) -> None:
    first = make_layer(tmp_path / "1", {"c/": "", "c/made-before": "1"})
    second = make_layer(tmp_path / "2", {})
    excluded = Excluded(trees=((b"c",),))
    with LayerWriter(tmp_path / "d") as writer:
        write_difference(read_state(first), read_state(second, excluded), second, excluded, writer)
        assert writer.entries == 0


@pytest.mark.parametrize("name", ["../x", "a/../../x", "a\0b/../x"])
def test_a_guest_that_names_paths_outside_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "evil"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo(name.replace("\0", "_")))
    with pytest.raises(CorruptImage):
        read_state(path)

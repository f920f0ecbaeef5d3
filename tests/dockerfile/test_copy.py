"""COPY, ADD, WORKDIR and the configuration: builds that need no machine, and what files come of them."""

# ruff: noqa: E501 - tables, one case an item

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bandsox.errors import InvalidDockerfile, StorageFull
from tests.dockerfile.workbench import Workbench, tree_of, write_files


def make_tar(files: dict[str, bytes], *, extra: list[tarfile.TarInfo] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.uid, info.mode = len(content), 7, 0o640
            archive.addfile(info, io.BytesIO(content))
        for info in extra or []:
            archive.addfile(info)
    return out.getvalue()


@pytest.fixture
def base(tmp_path: Path) -> str:
    """An image with users, a directory behind a link, and a file."""
    extra = [tarfile.TarInfo(name) for name in ("lib", "etc/alias")]
    for info, target in zip(extra, ("usr/lib", "/usr/lib/x"), strict=True):
        info.type, info.linkname = tarfile.SYMTYPE, target
    files = {"usr/lib/x": b"x", "etc/passwd": b"app:x:1000:1001::/:\n", "etc/group": b"staff:x:50:\n", "file": b"f", "dir/in": b"i"}
    path = tmp_path / "base.tar"
    path.write_bytes(make_tar(files, extra=extra))
    return f"rootfs:{path}"


# ── sources and destinations ────────────────────────────────────────────────────────────────────


FILES = {"a.txt": "A", "b.txt": "B", "d/x": "X", "d/e/y": "Y", "link": "->a.txt", "dlink": "->d", "d/l": "->x", "empty": None}


@pytest.mark.parametrize(
    ("copy", "expected"),
    [
        ("a.txt /f", {"/f": "A"}),
        ("a.txt /f/", {"/f/a.txt": "A"}),
        ("a.txt b.txt /f/", {"/f/a.txt": "A", "/f/b.txt": "B"}),
        ("*.txt /f/", {"/f/a.txt": "A", "/f/b.txt": "B"}),
        ("d /f", {"/f/x": "X", "/f/e/y": "Y"}),
        ("d/. ./", {"/x": "X", "/e/y": "Y"}),
        ("./d/e/ /f", {"/f/y": "Y"}),
        ("link /f", {"/f": "A"}),
        ("dlink /f", {"/f/x": "X", "/f/e/y": "Y"}),
        ("dlink/x /f", {"/f": "X"}),
        ("d*/x /f/", {"/f/x": "X"}),
        ('["a.txt", "/with space"]', {"/with space": "A"}),
        ("--parents d/e/y a.txt /p/", {"/p/d/e/y": "Y", "/p/a.txt": "A"}),
        ("--parents ./d/./e/y /p/", {"/p/e/y": "Y"}),
        ("--exclude=e --exclude=l d /f", {"/f/x": "X"}),
        ("--exclude=*.txt . /f/", {"/f/d/x": "X", "/f/d/e/y": "Y"}),
    ],
)  # fmt: skip
def test_copies_files_where_docker_puts_them(bench: Workbench, copy: str, expected: dict[str, str]) -> None:
    found = bench.contents(f"FROM scratch\nCOPY {copy}\n", FILES)
    found.pop("/f/Dockerfile", None)
    assert found == expected


def test_links_inside_a_directory_stay_links_and_hard_links_stay_one_file(bench: Workbench) -> None:
    write_files(bench.context, FILES)
    os.link(bench.context / "a.txt", bench.context / "d/hard")
    os.link(bench.context / "a.txt", bench.context / "d/hard2")
    tree = bench.tree("FROM scratch\nCOPY d /f\n")
    assert tree["/f/l"] == ("symlink", "0o777", 0, 0, b"x")
    assert tree["/f/hard"][4] == tree["/f/hard2"][4] == b"A"


def test_an_empty_directory_and_odd_names_are_copied(bench: Workbench) -> None:
    (bench.context / "o").mkdir()
    Path(os.fsdecode(os.fsencode(bench.context) + b"/o/\xff\n")).write_text("odd")
    tree = bench.build("FROM scratch\nCOPY empty /e/\nCOPY o /o\n", FILES)
    from bandsox.dockerfile.rootfs import RootFS

    rootfs = RootFS(tree.rootfs)
    assert rootfs.list((b"o",)) == [b"\xff\n"] and rootfs.find((b"e",)) is not None


def test_modes_are_kept_and_owners_are_roots(bench: Workbench) -> None:
    write_files(bench.context, {"s.sh": "#!"})
    if os.geteuid() == 0:
        os.chown(bench.context / "s.sh", 5, 6)
    (bench.context / "s.sh").chmod(0o4751)
    assert bench.tree("FROM scratch\nCOPY s.sh /\n")["/s.sh"] == ("file", "0o4751", 0, 0, b"#!")


def test_chmod_and_chown(bench: Workbench, base: str) -> None:
    tree = bench.tree(
        f"FROM {base}\nARG U=app\nCOPY --chown=$U --chmod=0700 d /n/m\nCOPY --chown=3:staff a.txt /t\nCOPY --chown=9 a.txt /u\n", FILES
    )
    assert tree["/n"][:4] == ("directory", "0o755", 1000, 1001)
    assert tree["/n/m/e/y"][:4] == ("file", "0o700", 1000, 1001)
    assert tree["/t"][2:4] == (3, 50) and tree["/u"][2:4] == (9, 9)


def test_what_the_image_has_is_respected(bench: Workbench, base: str) -> None:
    tree = bench.tree(f"FROM {base}\nCOPY a.txt /lib\nCOPY d /lib/\nCOPY b.txt /etc/alias\nCOPY sub/ /\n", {**FILES, "sub/lib/z": "Z"})
    assert tree["/lib"][0] == "symlink"
    assert {path: tree[path][4] for path in ("/usr/lib/a.txt", "/usr/lib/e/y", "/usr/lib/x", "/usr/lib/z")} == {
        "/usr/lib/a.txt": b"A", "/usr/lib/e/y": b"Y", "/usr/lib/x": b"B", "/usr/lib/z": b"Z",
    }  # fmt: skip
    assert tree["/etc/alias"][0] == "symlink"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("COPY gone /x", "does not exist in the build context"), ("COPY *.gone /x/", "none of the sources"), ("COPY a.txt b.txt /x", "slash"),
        ("COPY d /file", "cannot be copied onto /file"), ("COPY a.txt /file/", "not a directory"), ("COPY a.txt /file/x", "not a directory"),
        ("COPY --chown=nobody a.txt /", "no user 'nobody'"), ("COPY --chown=1:nogroup a.txt /", "no group"), ("COPY --chmod=u+x a.txt /", "octal"),
        ("COPY --from=later a.txt /", "comes later"), ("COPY --from=7 a.txt /", "no stage 7"), ("ADD https://github.com/a/b.git /x", "clone it"),
        ("ADD ftp://x/y /x", "cannot fetch"), ("WORKDIR /file", "not a directory"), ("COPY .wh.x /", "deletions"), ("EXPOSE x", "not a port"),
        ("COPY [ /x", "not closed"), ("ENV =1", "name=value"), ("COPY a.txt $UNSET", "")
    ],
)  # fmt: skip
def test_what_cannot_be_done_says_so_with_its_line(bench: Workbench, base: str, line: str, says: str) -> None:
    text = f"FROM {base}\n\n{line}\nFROM scratch AS later\nFROM 0\n"
    if says:
        with pytest.raises(InvalidDockerfile, match=r"Dockerfile:3: ") as caught:
            bench.build(text, {**FILES, ".wh.x": ""}, target="0")
        assert says in str(caught.value)
    else:
        bench.build(text, FILES, target="0")


# ── the context and nothing else ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("files", "source"),
    [
        ({}, "../secret"), ({}, "d/../../secret"), ({"l": "->../secret"}, "l"), ({"l": "->.."}, "l/secret"), ({"l": "->../.."}, "l/*/secret"),
        ({"a/b": "->../../secret"}, "a/b"), ({"l": "->l"}, "l"), ({"l": "->m", "m": "->l"}, "l/x"), ({"l": "->/secret"}, "l"),
        ({"l": "->/etc/passwd"}, "l"), ({"l": "->/proc/self/root/etc/passwd"}, "l"),
    ],
)  # fmt: skip
def test_nothing_outside_the_context_can_be_copied(bench: Workbench, files: dict[str, str], source: str) -> None:
    (bench.context.parent / "secret").write_text("secret")
    with pytest.raises(InvalidDockerfile):
        bench.build(f"FROM scratch\nCOPY {source} /x\n", files)


def test_an_absolute_link_is_seen_from_the_contexts_root(bench: Workbench) -> None:
    assert bench.contents("FROM scratch\nCOPY l /x\n", {"etc/passwd": "mine", "l": "->/etc/passwd"}) == {"/x": "mine"}


def test_links_out_of_the_context_stay_links_inside_a_directory(bench: Workbench) -> None:
    assert bench.tree("FROM scratch\nCOPY d /d\n", {"d/out": "->../../secret"})["/d/out"][4] == b"../../secret"


def test_sockets_and_devices_are_left_out_and_a_fifo_does_not_block(bench: Workbench) -> None:
    import socket

    (bench.context / "d").mkdir()
    os.mkfifo(bench.context / "d/fifo")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(bench.context / "d/s"))
        assert {path: entry[0] for path, entry in bench.tree("FROM scratch\nCOPY d /d\n").items()} == {"/d": "directory", "/d/fifo": "fifo"}


def test_ignore_files_apply_and_the_dockerfiles_own_wins(bench: Workbench) -> None:
    files = {"a": "1", "b": "2", "keep/x": "3", "keep/y": "4", ".dockerignore": "*\n!keep\nkeep/y\n"}
    assert bench.paths("FROM scratch\nCOPY . /\n", files) == {"/keep", "/keep/x"}
    assert "/a" in bench.paths("FROM scratch\nCOPY . /\n", {"Dockerfile.dockerignore": "b"})
    with pytest.raises(InvalidDockerfile, match="ignore"):
        bench.build("FROM scratch\nCOPY b /\n")


# ── ADD ─────────────────────────────────────────────────────────────────────────────────────────


def test_add_unpacks_archives_by_content_and_copy_does_not(bench: Workbench, base: str) -> None:
    archive = gzip.compress(make_tar({"in/one": b"1", "lib/two": b"2"}))
    plain = gzip.compress(b"no archive")
    tree = bench.tree(
        f"FROM {base}\nADD x.dat /\nADD --chown=app x.dat y.txt /o/\nADD --unpack=false x.dat /raw\nCOPY x.dat /copied\n",
        {"x.dat": archive, "y.txt": plain},
    )
    assert tree["/in/one"] == ("file", "0o640", 7, 0, b"1")
    assert tree["/usr/lib/two"][4] == b"2" and tree["/lib"][0] == "symlink"
    assert tree["/o/in/one"][2:4] == (1000, 1001)
    assert tree["/o/y.txt"][4] == plain and tree["/copied"][4] == tree["/raw"][4] == archive


def test_an_archive_that_leads_out_is_refused(bench: Workbench) -> None:
    with pytest.raises(InvalidDockerfile, match="leads out of its root"):
        bench.build("FROM scratch\nADD x.tar /\n", {"x.tar": make_tar({"a/../../b": b""})})


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "web").mkdir()
    (tmp_path / "web/file.bin").write_bytes(b"downloaded")
    (tmp_path / "web/t.tar").write_bytes(make_tar({"in": b"1"}))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_add_fetches_addresses_and_checks_them(bench: Workbench, web: str) -> None:
    good = hashlib.sha256(b"downloaded").hexdigest()
    tree = bench.tree(
        f"FROM scratch\nADD --checksum=sha256:{good} {web}/file.bin /d/\nADD {web}/t.tar /t\nADD --unpack=true {web}/t.tar /u/\n"
    )
    assert tree["/d/file.bin"] == ("file", "0o600", 0, 0, b"downloaded")
    assert tree["/t"][0] == "file" and tree["/u/in"][4] == b"1"
    with pytest.raises(InvalidDockerfile, match="checksum"):
        bench.build(f"FROM scratch\nADD --checksum=sha256:{'0' * 64} {web}/file.bin /\n")
    with pytest.raises(InvalidDockerfile, match="404"):
        bench.build(f"FROM scratch\nADD {web}/gone /\n")
    assert not list((bench.storage / "tmp").glob("*/build-*"))


# ── stages, variables, configuration ────────────────────────────────────────────────────────────


def test_only_the_stages_that_are_needed_are_built(bench: Workbench) -> None:
    text = "FROM scratch AS a\nCOPY a.txt /a\nFROM scratch AS unused\nCOPY gone /\nFROM a AS b\nCOPY --from=a /a /b\nFROM scratch\nCOPY --from=0 a c\n"
    assert bench.contents(text, FILES) == {"/c": "A"}
    assert bench.contents(text, target="b") == {"/a": "A", "/b": "A"}
    with pytest.raises(InvalidDockerfile, match="no stage 'x'"):
        bench.build(text, target="x")


def test_copies_from_an_image(bench: Workbench, base: str) -> None:
    tree = bench.tree(f"FROM scratch\nCOPY --from={base} /lib/ /l\nCOPY --from={base} /etc/alias /file /up/../x/\n")
    assert tree["/l/x"][:3] == ("file", "0o640", 7) and tree["/x/alias"][4] == b"x"
    with pytest.raises(InvalidDockerfile, match="neither a stage"):
        bench.build("FROM scratch\nCOPY --from=rootfs:/gone.tar / /\n")
    with pytest.raises(InvalidDockerfile, match="host's files"):
        bench.build(f"FROM {base}\n", registry_only=True)


@pytest.mark.parametrize(
    ("body", "given", "expected"),
    [
        ("ARG A=1\nFROM scratch\nLABEL x=[$A]", {}, "[]"),
        ("ARG A=1\nFROM scratch\nARG A\nLABEL x=[$A]", {}, "[1]"),
        ("ARG A=1\nFROM scratch\nARG A=2\nLABEL x=[$A]", {}, "[2]"),
        ("ARG A=1\nFROM scratch\nARG A=2\nLABEL x=[$A]", {"A": "3"}, "[3]"),
        ("ARG A=1\nARG B=${A}2\nFROM scratch\nARG B\nLABEL x=[$B]", {"A": "9"}, "[92]"),
        ("FROM scratch\nARG A\nLABEL x=[${A-unset}]", {}, "[unset]"),
        ("FROM scratch\nLABEL x=[$A]\nARG A=1", {"A": "3"}, "[]"),
        ("FROM scratch\nARG A=1\nENV A=env\nLABEL x=[$A]", {"A": "3"}, "[env]"),
        ("FROM scratch\nENV A=env\nARG A=1\nLABEL x=[$A]", {"A": "3"}, "[env]"),
        ("FROM scratch\nENV A=1 B=$A\nENV C=$A$B\nLABEL x=[$C]", {}, "[1]"),
        ("FROM scratch AS one\nARG A=1\nENV E=e\nFROM one\nLABEL x=[$A$E]", {}, "[1e]"),
        ("FROM scratch AS one\nARG A=1\nFROM scratch\nLABEL x=[$A]", {}, "[]"),
        ("FROM scratch\nARG TARGETARCH TARGETOS\nLABEL x=[$TARGETOS$TARGETVARIANT]", {}, "[linux]"),
        ("FROM scratch\nARG A=1 B=$A\nLABEL x=[$B]", {}, "[1]"),
        ("ARG BASE=scratch\nFROM ${BASE}\nLABEL \"x\"='[$A]'", {}, "[$A]"),
    ],
)  # fmt: skip
def test_scopes_of_arguments_and_variables(bench: Workbench, body: str, given: dict[str, str], expected: str) -> None:
    assert bench.build(body, build_args=given).config.labels["x"] == expected


def test_the_configuration_is_what_the_instructions_say(bench: Workbench) -> None:
    image = bench.build(
        'FROM scratch\nENV P=/p\nWORKDIR $P\nWORKDIR q\nUSER app:staff\nEXPOSE 80 90-91/udp\nVOLUME ["/v w"] \nVOLUME /x /y\nSTOPSIGNAL SIGINT\n'
        'SHELL ["/bin/bash", "-c"]\nCMD first\nENTRYPOINT ["/e", "$P"]\nCMD run $P\nHEALTHCHECK --timeout=3s CMD ["/h"]\nMAINTAINER Some "One" $P\n'
        "ONBUILD RUN x\nLABEL a=1 a=2",
        labels={"given": "1"},
    )
    config = image.config
    assert (config.env, config.workdir, config.user, config.stop_signal) == ({"P": "/p"}, "/p/q", "app:staff", "SIGINT")
    assert (config.exposed_ports, config.volumes) == (("80/tcp", "90/udp", "91/udp"), ("/v w", "/x", "/y"))
    assert (config.entrypoint, config.cmd) == (("/e", "$P"), ("/bin/bash", "-c", "run $P"))
    assert config.healthcheck == {"Test": ["CMD", "/h"], "Timeout": 3 * 10**9}
    assert config.labels == {"maintainer": 'Some "One" $P', "a": "2", "given": "1"} and config.on_build == ("RUN x",)
    assert set(tree_of(image)) == {"/p", "/p/q"}


def test_an_entrypoint_drops_the_command_of_the_base(bench: Workbench) -> None:
    text = "FROM scratch AS a\nCMD one\nFROM a\nENTRYPOINT two\n"
    assert bench.build(text).config.cmd == ()


def test_triggers_are_carried_out_by_the_next_build(bench: Workbench) -> None:
    bench.build("FROM scratch\nONBUILD COPY a.txt /from-trigger\nONBUILD ENV T=1\n", FILES, tag="parent")
    image = bench.build("FROM parent\nLABEL t=$T\n")
    assert set(tree_of(image)) == {"/from-trigger"} and image.config.labels == {"t": "1"} and image.config.on_build == ()


def test_the_history_tells_the_instructions_and_those_of_the_base(bench: Workbench) -> None:
    bench.build("FROM scratch AS unused\nLABEL u=1\nFROM scratch\nENV A=1\nCOPY a.txt /\n", FILES, tag="base")
    image = bench.build(
        "ARG secret\nFROM base\nARG secret\nLABEL s=$secret\nCOPY <<EOF /f\nhello\nEOF\nWORKDIR /w\n", build_args={"secret": "x"}
    )
    assert bench.history(image) == [
        ("ENV A=1", False),
        ("COPY a.txt /", True),
        ("ARG secret", False),
        ("LABEL s=$secret", False),
        ("COPY <<EOF /f\nhello\nEOF", True),
        ("WORKDIR /w", True),
    ]


def test_here_documents_become_files(bench: Workbench) -> None:
    text = 'FROM scratch\nENV X=1\nCOPY <<one <<"two" /d/\nit\'s "$X"\none\n$X\ntwo\nCOPY <<EOF /f\nhello\nEOF\n'
    assert bench.contents(text) == {"/d/one": 'it\'s "1"\n', "/d/two": "$X\n", "/f": "hello\n"}


# ── cache ───────────────────────────────────────────────────────────────────────────────────────


def test_a_second_build_makes_nothing_and_gives_the_same_image(bench: Workbench) -> None:
    text = "FROM scratch\nCOPY a.txt /\nLABEL n=1\nCOPY d /d\n"
    first = bench.build(text, FILES, tag="one")
    again = bench.build(text, tag="two")
    assert bench.made() == [] and bench.cached() == ["COPY", "COPY"] and again.id == first.id
    assert set(again.references) == {"one:latest", "two:latest"}


def test_a_changed_file_makes_what_is_after_it_again(bench: Workbench) -> None:
    text = "FROM scratch\nCOPY a.txt /\nCOPY b.txt /\nCOPY d /d\n"
    bench.build(text, FILES)
    assert bench.contents(text, {"b.txt": "changed"})["/b.txt"] == "changed"
    assert bench.cached() == ["COPY"] and bench.made() == ["COPY", "COPY"]
    (bench.context / "b.txt").chmod(0o700)
    bench.build(text)
    assert bench.made() == ["COPY", "COPY"]
    os.utime(bench.context / "b.txt", (1, 1))
    bench.build(text)
    assert bench.made() == []
    bench.build(text, no_cache=True)
    assert len(bench.made()) == 3


def test_what_is_ignored_does_not_matter_to_the_cache(bench: Workbench) -> None:
    text = "FROM scratch\nCOPY . /\n"
    bench.build(text, {"a": "1", "noise": "1", ".dockerignore": "noise\nDockerfile\n"})
    bench.build(text, {"noise": "2"})
    assert bench.made() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_full_disk_says_so_and_leaves_nothing_half_made(bench: Workbench) -> None:
    text = "FROM scratch\nCOPY big /\nCOPY a.txt /\n"
    bench.storage.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m,mode=0700", "none", bench.storage], check=True)
    try:
        with pytest.raises(StorageFull):
            bench.build(text, {**FILES, "big": os.urandom(20 << 20)})
        assert not list((bench.storage / "tmp").glob("*/build-*")) and not list((bench.storage / "build-cache/layers").iterdir())
        assert bench.contents(text, {"big": "small"}) == {"/big": "small", "/a.txt": "A"}
    finally:
        subprocess.run(["umount", "-l", bench.storage], check=True)


def test_pruning_the_cache_keeps_images(bench: Workbench) -> None:
    import asyncio

    from bandsox.dockerfile import prune_build_cache
    from bandsox.engine import Engine

    text = "FROM scratch\nCOPY a.txt /\n"
    image = bench.build(text, FILES, tag="x")
    engine = Engine(bench.storage)
    pruned = asyncio.run(prune_build_cache(engine))
    engine.close()
    assert pruned.layers == 1 and not list((bench.storage / "build-cache/keys").iterdir())
    assert tree_of(image)["/a.txt"][4] == b"A"
    bench.build(text)
    assert bench.made() == ["COPY"]

"""RUN in real machines: what it sees, what of it becomes a layer, the cache, mounts, and everything that can go wrong."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bandsox import BandSox
from bandsox.dockerfile.builder import NAMELESS
from bandsox.dockerfile.layers import read_index
from bandsox.engine import Engine
from bandsox.errors import BuildFailed, InvalidDockerfile
from bandsox.settings import DEFAULT_IMAGE
from tests.dockerfile.workbench import Workbench, tree_of, write_files
from tests.engine.leaks import processes_with

FROM = f"FROM {DEFAULT_IMAGE}\n"
SMALL = "FROM scratch\nCOPY --from=0 /etc/os-release /\n"
"""A last stage for builds of whose first stage only the running matters: its image is made in no time."""


@pytest.fixture(autouse=True)
def nothing_is_left(machine_bench: Workbench) -> Iterator[None]:
    """Every build leaves no machine, no nameless image and no work file, however it ended."""
    yield
    engine = Engine(machine_bench.storage)
    machines = list(engine.layout.vms.glob("*/owner"))
    nameless = [image for image in asyncio.run(engine.images.list()) if NAMELESS in image.config.labels]
    work = list(engine.layout.temporary.glob("build-*"))
    engine.close()
    assert (machines, nameless, work) == ([], [], [])


@pytest.fixture
def salt(tmp_path: Path) -> str:
    """Something that no earlier build had, so that nothing is in the cache."""
    return f"ARG SALT={tmp_path.name}-{os.urandom(4).hex()}\n"


def layer_names(bench: Workbench) -> list[set[str]]:
    """The newest layers' paths, oldest first; hidden ones with a minus before them."""
    paths = sorted((bench.storage / "build-cache/layers").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    found = []
    for path in paths:
        index = read_index(path)
        names = {b"/".join(one).decode() for one in index.files} | {"-" + b"/".join(one).decode() for one in index.hidden}
        found.append(names)
    return found


def test_each_run_becomes_a_layer_of_its_own(machine_bench: Workbench, salt: str) -> None:
    text = (
        FROM + salt + "WORKDIR /srv\nENV GREET=hello\n"
        'RUN echo "$GREET $SALT" > greeting && mkdir sub && echo 1 > sub/x && rm /etc/issue && echo 127.0.0.9 > /etc/hosts\n'
        "COPY f.txt sub/\n"
        "RUN test -e sub/f.txt && rm greeting && ln sub/f.txt hard && rm -r sub && echo 2 > two\n"
        "RUN touch -d @1 two && chown 5:6 two\n"
        "RUN true\n"
    )
    image = machine_bench.build(text, {"f.txt": "file"}, tag="layers-test")
    tree = tree_of(image)
    assert {path for path in tree if path.startswith("/srv")} == {"/srv", "/srv/hard", "/srv/two"}
    assert tree["/srv/hard"][4] == b"file" and tree["/srv/two"][2:4] == (5, 6) and "/etc/issue" not in tree
    assert b"127.0.0.9" not in tree.get("/etc/hosts", (b"",) * 5)[4]
    *_, first, copied, second, third = layer_names(machine_bench)
    assert {"srv/greeting", "srv/sub/x", "-etc/issue"} <= first and not {"etc/hosts", "etc/hostname", "etc/resolv.conf"} & first
    assert copied == {"srv/sub/f.txt"}
    assert {"-srv/greeting", "-srv/sub", "srv/hard", "srv/two"} <= second
    assert "srv/two" in third and "srv/hard" not in third
    again = machine_bench.build(text)
    assert machine_bench.made() == [] and again.id == image.id


def test_a_changed_file_runs_again_only_what_is_after_it(machine_bench: Workbench, salt: str) -> None:
    text = FROM + salt + "RUN echo one$SALT > /one\nCOPY f.txt /\nRUN cat /one /f.txt > /both\n"
    machine_bench.build(text, {"f.txt": "1"})
    tree = machine_bench.tree(text, {"f.txt": "2"})
    assert machine_bench.cached() == ["RUN"] and machine_bench.made() == ["COPY", "RUN"]
    assert tree["/both"][4].endswith(b"\n2") and tree["/both"][4].startswith(b"one")


def test_the_image_runs(machine_bench: Workbench, bandsox: BandSox, salt: str) -> None:
    image = machine_bench.build(
        FROM + salt + "RUN useradd -m bob\nUSER bob\nWORKDIR /home/bob\nENV A=1\nRUN echo $HOME:$A > made\n", tag="bob:1"
    )
    with bandsox.create_vm("bob:1", mem_mib=256) as vm:
        assert vm.run("cat made; id -un; pwd; echo $A").text == "/home/bob:1\nbob\n/home/bob\n1\n"
    assert image.references == ("bob:1",)


def test_shells_forms_and_here_documents(machine_bench: Workbench, salt: str) -> None:
    text = (
        FROM + salt + 'RUN ["/bin/echo", "exec $SALT"]\nSHELL ["/bin/bash", "-c"]\nRUN echo bash ${BASH_VERSION:+yes}\n'
        "RUN <<EOF\nset -e\nX=script\necho $X\nEOF\n"
        "RUN <<EOF\n#!/usr/bin/env python3\nimport sys\nprint('python', sys.argv[0])\nEOF\n"
        "RUN cat <<A - <<'B' && echo both\nfrom $((1+1))\nA\n$not\nB\n"
        "RUN printf 'no newline\\n\\nümlaut' >&2\n" + SMALL
    )
    machine_bench.build(text)
    lines = [line for line in machine_bench.output if line]
    assert lines[:4] == ["exec $SALT", "bash yes", "script", "python /run/bandsox-build/EOF"]
    assert lines[-3:] == ["both", "no newline", "ümlaut"] and "$not" in lines


def test_arguments_are_in_the_environment_and_proxies_do_not_matter_to_the_cache(machine_bench: Workbench, salt: str) -> None:
    text = FROM + salt + "ARG WHO\nRUN echo $WHO $HTTP_PROXY $UNDECLARED\n" + SMALL
    given = {"WHO": "me", "HTTP_PROXY": "http://p", "UNDECLARED": "x"}
    machine_bench.build(text, build_args=given)
    assert machine_bench.output == ["warning: no ARG declares the build argument UNDECLARED", "me http://p"]
    machine_bench.build(text, build_args={"WHO": "me", "HTTP_PROXY": "http://other"})
    assert "RUN" not in machine_bench.made()
    machine_bench.build(text, build_args={"WHO": "you"})
    assert "RUN" in machine_bench.made()


def test_stages_hand_files_over(machine_bench: Workbench, salt: str) -> None:
    text = (
        FROM.replace("\n", " AS builder\n")
        + salt
        + "RUN mkdir /out && python3 -c \"open('/out/a','w').write('built')\" && ln -s a /out/l && chown -R 7 /out\n"
        "FROM scratch\nCOPY --from=builder /out /\nCOPY --from=builder --chown=0 /out/l /etc/os-release /x/\n"
    )
    tree = machine_bench.tree(text)
    assert tree["/a"] == ("file", "0o644", 7, 0, b"built") and tree["/l"][:1] == ("symlink",)
    assert tree["/x/l"][4] == b"built" and b"bookworm" in tree["/x/os-release"][4]


# ── mounts ──────────────────────────────────────────────────────────────────────────────────────


def test_mounts_are_seen_and_leave_nothing_but_their_caches(machine_bench: Workbench, salt: str) -> None:
    text = (
        FROM
        + salt
        + "RUN --mount=type=bind,target=/b/ind --mount=type=bind,source=f.txt,target=/one.txt --mount=type=tmpfs,target=/t "
        "--mount=type=cache,target=/opt/c,id=$SALT --mount=type=secret,id=key --mount=type=secret,id=key,env=KEY "
        "cat /b/ind/f.txt /one.txt /run/secrets/key && echo $KEY && touch /t/x /b/ind/y /one && echo kept >> /opt/c/k\n"
        "RUN test ! -e /b && test ! -e /t && test ! -e /run/secrets && test -e /one\n"
        "RUN --mount=type=cache,target=/etc,id=$SALT cat /etc/k && echo more >> /etc/k\n"
        "RUN --mount=type=bind,from=0,source=/etc/os-release,target=/o cat /o | head -1\n".replace("from=0,", f"from={DEFAULT_IMAGE},")
    )
    tree = machine_bench.tree(text, {"f.txt": "F\n"}, secrets={"key": b"hush\n"})
    assert machine_bench.output[:4] == ["F", "F", "hush", "hush"] and "kept" in machine_bench.output
    assert not {"/b", "/t", "/opt/c", "/one.txt", "/o", "/etc/k"} & set(tree) and "/one" in tree and "/etc/passwd" in tree
    assert b"hush" not in b"".join(path.read_bytes() for path in (machine_bench.storage / "build-cache").rglob("*") if path.is_file())
    machine_bench.build(FROM + salt + "RUN --mount=type=cache,target=/x,id=$SALT cat /x/k\n" + SMALL)
    assert machine_bench.output == ["kept", "more"]


def test_a_required_secret_and_a_missing_source_are_told_before_anything_runs(machine_bench: Workbench) -> None:
    for mount in ("type=secret,id=k,required=true", "source=gone,target=/x", "type=cache", "type=tmpfs,target=/proc"):
        with pytest.raises(InvalidDockerfile, match="Dockerfile:2"):
            machine_bench.build(FROM + f"RUN --mount={mount} true\n")


# ── failures ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("RUN echo out; echo err >&2; exit 7", "exit code 7"),
        ('RUN ["/gone"]', "cannot be started"),
        ("USER nobody-here\nRUN true", "cannot be started"),
        ("RUN python3 -c \"open('/proc/sysrq-trigger','w').write('o')\"; sleep 60", "machine ended"),
        ("RUN python3 -c \"import os; os.kill(os.getpid(), 9)\"", "exit code 137"),
        ("RUN dd if=/dev/zero of=/fill bs=1M", "disk is full"),
    ],
)  # fmt: skip
def test_a_run_that_fails_says_where_and_why(machine_bench: Workbench, line: str, says: str) -> None:
    with pytest.raises(BuildFailed) as caught:
        machine_bench.build(FROM + line + "\n", disk_size_mib=64)
    message = str(caught.value)
    assert says in message and f"Dockerfile:{line.count(chr(10)) + 2}: " in message
    if "echo out" in line:
        assert "> out" in message and "> err" in message


def test_what_a_run_leaves_running_or_mounted_is_gone_in_the_next(machine_bench: Workbench, salt: str) -> None:
    text = (
        FROM
        + salt
        + "RUN (while :; do date > /loop; done) & python3 -c 'import time; time.sleep(.1)'; mkdir /m; mount -t tmpfs none /m; touch /m/x\n"
        "RUN ! pgrep -f /loop 2>/dev/null; test ! -e /m/x && test -d /m\n" + SMALL
    )
    machine_bench.build(text)


def test_a_cancelled_build_leaves_nothing(machine_bench: Workbench, salt: str) -> None:
    path = machine_bench.context / "Dockerfile"
    path.write_text(FROM + salt + "RUN echo running; sleep 300\n")

    async def scenario() -> None:
        running = asyncio.Event()
        seen = machine_bench._progress

        def progress(report: Any) -> None:
            seen(report)
            if report.label == "running":
                running.set()

        machine_bench._progress = progress  # type: ignore[method-assign]
        build = asyncio.ensure_future(machine_bench.build_async(path))
        await running.wait()
        build.cancel()
        with pytest.raises(asyncio.CancelledError):
            await build

    asyncio.run(scenario())


KILLED = """
import asyncio, os, signal, sys
from bandsox.dockerfile import build_image
from bandsox.engine import Engine
def progress(report):
    if report.label == "running":
        os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(build_image(Engine(sys.argv[1]), sys.argv[2], progress=progress))
"""


def test_a_killed_build_leaves_nothing(machine_bench: Workbench, salt: str) -> None:
    write_files(machine_bench.context, {"Dockerfile": FROM + salt + "RUN echo running; sleep 300\n"})
    command = [sys.executable, "-c", KILLED, str(machine_bench.storage), str(machine_bench.context)]
    assert subprocess.run(command, check=False, timeout=400).returncode == -9
    for remover in processes_with("bandsox.engine.cleanup_child", str(machine_bench.storage)):
        asyncio.run(remover.wait())


def test_two_builds_at_once_do_the_work_once(machine_bench: Workbench, salt: str) -> None:
    path = machine_bench.context / "Dockerfile"
    path.write_text(FROM + salt + "RUN echo $SALT > /x && echo ran\n" + SMALL)

    async def scenario() -> list[Any]:
        other = Workbench(machine_bench.storage, machine_bench.context)
        images = await asyncio.gather(machine_bench.build_async(path), other.build_async(path))
        return [*images, machine_bench.output + other.output]

    first, second, output = asyncio.run(scenario())
    assert first.id == second.id and output == ["ran"]


def test_a_run_has_a_network_unless_it_is_to_have_none(machine_bench: Workbench, salt: str) -> None:
    without, within = (
        "RUN --network=none test ! -e /sys/class/net/eth0 && touch /without\n",
        "RUN test -e /sys/class/net/eth0 -a -e /without\n",
    )
    machine_bench.build(FROM + salt + without + within + SMALL)

"""Names, removal, pruning, building blocks, and several processes at once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bandsox.errors import Conflict, CorruptImage, ImageNotFound, InvalidReference
from bandsox.images import Images
from bandsox.models import Image, ImageConfig, Progress
from bandsox.settings import Layout
from bandsox.store import Database
from tests.images.registry import Registry, proxy
from tests.images.tars import Tar, in_chunks, sha256
from tests.images.trees import content, tree_of_squashfs

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent.parent
DATA = os.urandom(3_000_000)


async def make(images: Images, name: str, *files: str) -> Image:
    tar = Tar()
    for file in files or ("a",):
        tar.file(file, file.encode())
    return await images.import_(in_chunks(tar.bytes(), 4096), name)


def add_vm(layout: Layout, image: Image, name: str = "vm1") -> None:
    with Database(layout.database).transaction() as connection:
        connection.execute(
            "INSERT INTO vms (id, name, status, created_at, image_id, rootfs, record) VALUES (?, ?, 'running', 0, ?, ?, '{}')",
            (name, name, image.id, str(image.rootfs)),
        )


def remove_vm(layout: Layout, name: str = "vm1") -> None:
    with Database(layout.database).transaction() as connection:
        connection.execute("DELETE FROM vms WHERE id = ?", (name,))


def files_of(layout: Layout) -> list[Path]:
    return [path for directory in (layout.images, layout.work) for path in directory.rglob("*") if path.is_file()]


# ── names ───────────────────────────────────────────────────────────────────────────────────────


async def test_a_local_name_tag_or_id_wins_over_the_registry(images: Images) -> None:
    image = await make(images, "python:3-alpine")
    digits = image.id.removeprefix("sha256:")
    names = ("python:3-alpine", "docker.io/library/python:3-alpine", "docker://python:3-alpine", image.id, digits, digits[:12], digits[:4])
    for name in names:
        assert await images.resolve(name) == image
    assert await images.resolve(f"sha256:{digits[:10]}") == image


async def test_a_name_that_looks_like_an_id_is_a_name_first(images: Images) -> None:
    image = await make(images, "one", "1")
    digits = image.id.removeprefix("sha256:")[:6]
    named = await make(images, digits, "2")
    assert (await images.resolve(digits)).id == named.id
    assert (await images.resolve(f"sha256:{digits}")).id == image.id


async def test_the_beginning_of_two_ids_is_refused(images: Images, layout: Layout) -> None:
    image = await make(images, "one")
    with Database(layout.database).transaction() as connection:
        columns = "manifest_digest, rootfs_digest, size, created_at, record"
        twin = image.id[:-1] + ("0" if image.id[-1] != "0" else "1")
        connection.execute(f"INSERT INTO images (id, {columns}) SELECT ?, {columns} FROM images", (twin,))
    with pytest.raises(InvalidReference, match="several"):
        await images.resolve(image.id[7:15])
    assert (await images.resolve(image.id)).id == image.id


async def test_tags_move_and_images_without_one_stay_until_pruned(images: Images) -> None:
    one, two = await make(images, "one", "1"), await make(images, "two", "2")
    assert (await images.tag("one", "shared:x")).references == ("one:latest", "shared:x")
    assert (await images.tag(two.id, "shared:x")).references == ("shared:x", "two:latest")
    assert (await images.inspect("shared:x")).id == two.id
    await images.tag("two", "one")
    assert (await images.inspect(one.id)).references == ()
    assert {image.id for image in await images.list()} == {one.id, two.id}
    assert (await images.prune()).deleted == (one.id,)
    assert {image.id for image in await images.list()} == {two.id}


@pytest.mark.parametrize("name", ["Bad", "a@sha256:" + "0" * 64, "oci:x", ""])
async def test_what_cannot_be_a_name_is_refused(images: Images, name: str) -> None:
    await make(images, "one")
    with pytest.raises(InvalidReference):
        await images.tag("one", name)


async def test_an_imported_archive_may_stand_for_one_to_be_built(images: Images) -> None:
    image = await make(images, "debootstrap:bookworm?include=python3")
    assert await images.resolve("debootstrap:bookworm?include=python3") == image


async def test_an_id_is_never_fetched(images: Images) -> None:
    image = await make(images, "one")
    assert await images.resolve(image.id, pull="always") == image


async def test_what_is_not_here_is_not_found(images: Images) -> None:
    for call in (images.inspect("none"), images.tag("none", "x"), images.remove("none"), images.resolve("none", pull="never")):
        with pytest.raises(ImageNotFound):
            await call


# ── removing ────────────────────────────────────────────────────────────────────────────────────


async def test_removing_the_last_name_removes_every_file(images: Images, layout: Layout) -> None:
    image = await make(images, "one")
    await images.tag("one", "other")
    assert (await images.remove("one")).untagged == ("one:latest",)
    assert image.rootfs.exists()
    removed = await images.remove("other")
    assert (removed.deleted, removed.freed > 0) == ((image.id,), True)
    assert files_of(layout) == []
    assert await images.list() == []


async def test_removing_by_id_wants_force_where_there_are_several_names(images: Images) -> None:
    image = await make(images, "one")
    await images.tag("one", "two")
    with pytest.raises(Conflict, match="one:latest, two:latest"):
        await images.remove(image.id)
    assert set((await images.remove(image.id, force=True)).untagged) == {"one:latest", "two:latest"}


async def test_an_image_in_use_is_kept_and_its_root_file_system_in_any_case(images: Images, layout: Layout) -> None:
    image = await make(images, "one")
    add_vm(layout, image, "worker")
    with pytest.raises(Conflict, match="in use by worker"):
        await images.remove("one")
    await images.prune(unused=True)
    assert (await images.inspect("one")).id == image.id
    await images.remove("one", force=True)
    assert image.rootfs.exists()
    await images.prune()
    assert image.rootfs.exists()
    remove_vm(layout, "worker")
    await images.prune()
    assert not image.rootfs.exists()


async def test_layers_that_another_image_has_stay(images: Images) -> None:
    base = await make(images, "base")
    async with images.adding():
        layer = await images.add_layer(in_chunks(Tar().file("b").bytes(), 4096))
        await images.commit([layer], ImageConfig(), base=base, references=["child"])
    await images.remove("base")
    assert len(images.layers(await images.inspect("child"))) == 2


async def test_pruning_removes_what_is_unused_and_unfinished(images: Images, layout: Layout) -> None:
    kept, unused = await make(images, "kept", "1"), await make(images, "unused", "2")
    add_vm(layout, kept)
    (layout.images / "blobs/sha256" / ("0" * 64)).write_text("a blob of nothing")
    (layout.images / "blobs/sha256" / ("1" * 64 + ".partial")).write_text("a download that broke off")
    (layout.images / "rootfs" / ("2" * 64 + ".squashfs")).write_text("of nothing")
    (layout.work / "1-1").mkdir()
    (layout.work / "1-1" / "image-0123").write_text("left by a killed process")
    before = set(files_of(layout))
    assert (await images.prune()).deleted == ()
    assert {path.name[:6] for path in before - set(files_of(layout))} == {"000000", "111111", "222222", "image-"}
    assert (await images.prune(unused=True)).deleted == (unused.id,)
    assert [image.id for image in await images.list()] == [kept.id]


async def test_nothing_is_pruned_while_layers_wait_for_their_image(images: Images, layout: Layout) -> None:
    async with images.adding():
        layer = await images.add_layer(in_chunks(Tar().file("a").bytes(), 4096))
        pruning = asyncio.ensure_future(Images(layout, Database(layout.database)).prune())
        await asyncio.wait([pruning], timeout=0.2)
        assert not pruning.done()
        image = await images.commit([layer], ImageConfig(cmd=("x",)), references=["built"])
    await pruning
    assert (await images.inspect("built")).id == image.id
    assert image.rootfs.exists()


async def test_an_image_about_to_be_used_is_not_removed(images: Images, layout: Layout) -> None:
    image = await make(images, "one")
    async with images.use(image):
        removing = asyncio.ensure_future(Images(layout, Database(layout.database)).remove("one"))
        await asyncio.wait([removing], timeout=0.2)
        assert not removing.done()
        add_vm(layout, image)
    with pytest.raises(Conflict):
        await removing
    remove_vm(layout)
    await images.remove("one")
    with pytest.raises(ImageNotFound):
        async with images.use(image):
            pass


async def test_a_lost_root_file_system_is_made_again(images: Images) -> None:
    image = await make(images, "one")
    image.rootfs.unlink()
    assert (await images.resolve("one")).rootfs.exists()


# ── building blocks ─────────────────────────────────────────────────────────────────────────────


async def test_committing_layers_on_a_base(images: Images) -> None:
    base = await make(images, "base", "a", "b")
    config = ImageConfig(env={"A": "1"}, workdir="/w", entrypoint=("/e",), exposed_ports=("80/tcp",), labels={"k": "v"})
    async with images.adding():
        layer = await images.add_layer(in_chunks(Tar().whiteout("a").file("c").bytes(), 4096))
        path = await images.map_rootfs([*images.layers(base), layer])
        image = await images.commit([layer], config, base=base, references=["built:1", "built:2"])
    assert image.rootfs == path
    assert image.config == config
    assert image.references == ("built:1", "built:2")
    assert set(tree_of_squashfs(image.rootfs)) == {b".", b"b", b"c"}
    again = Images(images._layout, Database(images._layout.database))
    assert await again.inspect("built:1") == image


async def test_the_same_layers_and_configuration_are_the_same_image(images: Images) -> None:
    async with images.adding():
        layer = await images.add_layer(in_chunks(Tar().file("c").bytes(), 4096))
        first = await images.commit([layer], ImageConfig(cmd=("x",)))
        assert (await images.commit([layer], ImageConfig(cmd=("x",)))).id == first.id
        assert (await images.commit([layer], ImageConfig(cmd=("y",)))).id != first.id


async def test_an_image_larger_than_the_configured_limit_is_refused(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANDSOX_MAX_IMAGE_MIB", "2")
    with pytest.raises(CorruptImage, match="larger than 2 MiB"):
        await make_big(Images(layout, Database(layout.database)))
    assert [path for path in files_of(layout) if "blobs" not in path.parts] == []


async def make_big(images: Images) -> Image:
    return await images.import_(in_chunks(Tar().file("a", DATA).bytes(), 1 << 20), "big")


async def test_progress_says_what_goes_on(images: Images) -> None:
    seen: list[Progress] = []
    await images.import_(in_chunks(Tar().file("a", DATA).bytes(), 1 << 20), "one", progress=seen.append)
    finished = [report.label for report in seen if report.finished]
    assert finished == ["reading the archive", "converting to squashfs"]
    assert all(report.total is None or report.done <= report.total for report in seen)


# ── several processes ───────────────────────────────────────────────────────────────────────────

PULL = """
import asyncio, sys
from bandsox.images import Images
from bandsox.settings import Layout
from bandsox.store import Database

def report(progress):
    print(progress.label, progress.done, flush=True)

async def main():
    layout = Layout.open(sys.argv[1])
    image = await Images(layout, Database(layout.database)).resolve(sys.argv[2], progress=report)
    print("done", image.id, flush=True)

asyncio.run(main())
"""


def start_pull(layout: Layout, reference: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", PULL, str(layout.root), reference],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output.strip().splitlines()[-1].removeprefix("done ")


async def test_two_processes_pulling_the_same_image_do_the_work_once(registry: Registry, images: Images, layout: Layout) -> None:
    layers = [Tar().file(f"f{number}", os.urandom(1_000_000)).bytes() for number in range(4)]
    registry.push("twice:1", layers)
    processes = [start_pull(layout, f"{registry.host}/twice:1") for _ in range(3)]
    ids = {finish(process) for process in processes}
    assert len(ids) == 1
    for layer in layers:
        assert registry.requests(rf'"GET /v2/twice/blobs/{sha256(layer)}') == 1
    assert registry.requests('"GET /v2/twice/manifests/1') == 1
    assert len(list((layout.images / "rootfs").iterdir())) == 1


async def test_images_that_share_a_layer_fetch_it_once(registry: Registry, layout: Layout) -> None:
    shared = Tar().file("shared", os.urandom(2_000_000)).bytes()
    registry.push("share:1", [shared, Tar().file("one").bytes()])
    registry.push("share:2", [shared, Tar().file("two").bytes()])
    processes = [start_pull(layout, f"{registry.host}/share:{number}") for number in (1, 2)]
    assert len({finish(process) for process in processes}) == 2
    assert registry.requests(rf'"GET /v2/share/blobs/{sha256(shared)}') == 1


async def test_tasks_of_one_process_share_the_work_too(registry: Registry, images: Images) -> None:
    layer = Tar().file("a", DATA).bytes()
    registry.push("tasks:1", [layer])
    found = await asyncio.gather(*[images.resolve(f"{registry.host}/tasks:1") for _ in range(8)])
    assert len({image.id for image in found}) == 1
    assert registry.requests(rf'"GET /v2/tasks/blobs/{sha256(layer)}') == 1


async def test_a_download_killed_half_way_is_gone_on_with(registry: Registry, images: Images, layout: Layout) -> None:
    layer = Tar().file("a", os.urandom(6_000_000)).bytes()
    registry.push("killed:1", [layer])
    with proxy(registry, cuts=[None, 4_000_000], stall=True) as between:
        process = start_pull(layout, f"{between.host}/killed:1")
        assert await asyncio.to_thread(between.stalled.wait, 30)
        partial = layout.images / "blobs/sha256" / f"{sha256(layer)[7:]}.partial"
        await asyncio.to_thread(until, lambda: partial.exists() and partial.stat().st_size >= 2_000_000)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert await images.list() == []
        kept = partial.stat().st_size
        between.delivered = 0
        image = await images.resolve(f"{between.host}/killed:1")
        assert any(f"[bytes={kept}-]" in request for request in between.requests)
        assert between.delivered < len(layer) - kept + 100_000
    assert len(tree_of_squashfs(image.rootfs)) == 2


async def test_a_partial_download_of_other_content_is_dropped(registry: Registry, images: Images, layout: Layout) -> None:
    layer = Tar().file("a", DATA).bytes()
    registry.push("stale:1", [layer])
    partial = layout.images / "blobs/sha256" / f"{sha256(layer)[7:]}.partial"
    partial.write_bytes(b"x" * 1_000_000)
    image = await images.resolve(f"{registry.host}/stale:1")
    assert tree_of_squashfs(image.rootfs)[b"a"].content == content(DATA)


async def test_a_conversion_killed_half_way_is_done_again(images: Images, layout: Layout, tmp_path: Path) -> None:
    archive = tmp_path / "root.tar"
    archive.write_bytes(Tar().file("a", os.urandom(80_000_000)).bytes())
    process = start_pull(layout, f"rootfs:{archive}")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("converting to squashfs") and not line.endswith(" 0\n"):
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not list((layout.images / "rootfs").iterdir())
    assert [path for path in files_of(layout) if path.name.startswith("image-")]
    image = await images.resolve(f"rootfs:{archive}")
    assert tree_of_squashfs(image.rootfs)[b"a"].kind == "file"
    await images.prune()
    assert not [path for path in files_of(layout) if path.name.startswith("image-")]


async def test_the_conversion_ends_with_a_parent_that_was_killed(layout: Layout, tmp_path: Path) -> None:
    archive = tmp_path / "root.tar"
    archive.write_bytes(Tar().file("a", os.urandom(80_000_000)).bytes())
    process = start_pull(layout, f"rootfs:{archive}")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("converting to squashfs") and not line.endswith(" 0\n"):
            break
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.communicate()
    assert len(children) == 1
    await asyncio.to_thread(until, lambda: not Path(f"/proc/{children[0]}").exists())


@pytest.mark.usefixtures("nothing_left")
async def test_a_cancelled_pull_leaves_nothing_running(images: Images, layout: Layout, tmp_path: Path) -> None:
    archive = tmp_path / "root.tar"
    archive.write_bytes(Tar().file("a", os.urandom(80_000_000)).bytes())
    for stage in ("reading", "converting"):
        reached = asyncio.Event()

        def report(progress: Progress, stage: str = stage, reached: asyncio.Event = reached) -> None:
            if progress.label.startswith(stage):
                reached.set()

        pulling = asyncio.ensure_future(images.resolve(f"rootfs:{archive}", progress=report))
        await asyncio.wait_for(reached.wait(), 120)
        pulling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pulling
    assert await images.list() == []
    assert await images.resolve(f"rootfs:{archive}")


async def test_cancelling_an_import_from_a_silent_pipe_returns_at_once(images: Images) -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as silent, os.fdopen(write_end, "wb"):
        importing = asyncio.ensure_future(images.import_(silent, "never"))
        await asyncio.wait([importing], timeout=0.2)
        importing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(importing, 60)


async def test_the_event_loop_goes_on_during_a_pull(images: Images, tmp_path: Path) -> None:
    archive = tmp_path / "root.tar"
    tar = Tar()
    for number in range(3000):
        tar.file(f"f{number}", os.urandom(5000))
    archive.write_bytes(tar.bytes())
    longest, began = 0.0, time.perf_counter()

    async def beat() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - before)

    beating = asyncio.ensure_future(beat())
    await images.resolve(f"rootfs:{archive}")
    beating.cancel()
    assert longest < max(0.5, (time.perf_counter() - began) / 4)  # a busy machine lets the whole process wait now and then


def until(condition: object) -> None:
    """Wait for a file another process writes or removes; there is no event for it."""
    assert callable(condition)
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()


async def test_a_module_in_the_working_directory_is_not_run(images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "msgspec.py").write_text("raise SystemExit('somebody else was run')")
    monkeypatch.chdir(tmp_path / "evil")
    assert await make(images, "one")

"""``docker-archive:`` and ``docker-daemon:``: what `docker save` writes, as a file or from a running Docker's socket.

The format is Docker's image specification v1.2, "Combined Image JSON + Filesystem Changeset Format": ``manifest.json``
lists the images of the archive, each with a configuration and layers that are tar archives.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import msgspec
from msgspec import Meta

from bandsox.errors import CorruptImage, DigestMismatch, ImageError, ImageNotFound, InvalidReference, Unsupported
from bandsox.images import spec
from bandsox.images.reference import Reference, parse_reference
from bandsox.images.transports import Context, Fetched, store_image
from bandsox.images.transports.archive import Archive, open_archive
from bandsox.workers import Task, in_thread, storage_errors

_DEFAULT_SOCKET = "/var/run/docker.sock"


class _SavedImage(msgspec.Struct, rename="pascal"):
    config: spec.Short
    layers: Annotated[list[spec.Short], Meta(max_length=spec.MAX_LAYERS)]
    repo_tags: list[spec.Short] | None = None


async def fetch_archive(reference: Reference, context: Context) -> Fetched:
    """Copy an image of a `docker save` archive into the blob store.

    Raises
    ------
    ImageNotFound: there is no such file, or no such image in it.
    CorruptImage, DigestMismatch, StorageFull: as they say.
    """
    return await _fetch(reference.path, reference.tag, context, str(reference))


async def fetch_daemon(reference: Reference, context: Context) -> Fetched:
    """Copy an image of the Docker daemon on this host into the blob store.

    Raises
    ------
    Unsupported: there is no daemon's socket, or it is not a local one.
    ImageNotFound: the daemon has no such image.
    """
    import httpx

    socket = _daemon_socket()
    name = str(reference).removeprefix("docker-daemon:")
    task = Task(context.progress, str(reference), f"saving {reference.familiar}")
    blobs = context.blobs
    with blobs.temporary_file() as (descriptor, path):
        try:
            async with (
                httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(socket)), timeout=60) as client,
                client.stream("GET", f"http://docker/images/{quote(name, safe='')}/get") as response,
            ):
                if response.status_code == 404:
                    raise ImageNotFound(f"the Docker daemon has no image {name}", remedy=f"docker pull {name}")
                if response.status_code != 200:
                    raise ImageError(f"the Docker daemon answered with the status {response.status_code}")
                received = 0
                with storage_errors(blobs.directory):
                    async for chunk in response.aiter_raw(1 << 20):
                        received += os.write(descriptor, chunk)
                        task.update(received)
        except httpx.HTTPError as error:
            raise Unsupported(f"the Docker daemon at {socket} does not answer", cause=str(error)) from error
        task.finish()
        return await _fetch(path, None, context, str(reference))


def _daemon_socket() -> Path:
    configured = os.environ.get("DOCKER_HOST", f"unix://{_DEFAULT_SOCKET}")
    scheme, _, path = configured.partition("://")
    if scheme != "unix":
        raise Unsupported(f"docker-daemon: needs a local Docker; DOCKER_HOST is {configured}")
    if not Path(path).is_socket():
        raise Unsupported(
            f"there is no Docker daemon at {path}",
            remedy="name the image by its registry instead, or save it to a file and use docker-archive:FILE",
        )
    return Path(path)


async def _fetch(path: Path, wanted: str | None, context: Context, task_name: str) -> Fetched:
    task = Task(context.progress, f"{task_name} layers", "copying layers", unit="steps")

    def work(stop: threading.Event) -> Fetched:
        with open_archive(path, context.blobs, context.limits.unpacked, stop) as archive:
            return _copy(archive, _choose(archive, wanted, path), context, task, stop)

    fetched = await in_thread(work)
    task.finish()
    return fetched


def copy_all(archive: Archive, path: Path, context: Context, task: Task, stop: threading.Event) -> list[tuple[list[str], Fetched]]:
    """Copy every image of an archive into the blob store, with the names it has there; blocks.

    Raises
    ------
    As `fetch_archive`.
    """
    return [(image.repo_tags or [], _copy(archive, image, context, task, stop)) for image in _images(archive, path)]


def _images(archive: Archive, path: Path) -> list[_SavedImage]:
    if archive.size("manifest.json") is None:
        raise CorruptImage(
            f"{path} is not an archive of `docker save`",
            cause="it has no manifest.json",
            remedy="for the archive of a root file system: bandsox image import",
        )
    return spec.decode(archive.read("manifest.json", spec.MAX_MANIFEST), list[_SavedImage], "manifest.json")


def _choose(archive: Archive, wanted: str | None, path: Path) -> _SavedImage:
    images = _images(archive, path)
    if wanted is None and len(images) == 1:
        return images[0]
    for image in images:
        if wanted is not None and any(_same(wanted, tag) for tag in image.repo_tags or ()):
            return image
    known = ", ".join(tag for image in images for tag in image.repo_tags or ())
    what = f"has no image {wanted}" if wanted else f"has {len(images)} images"
    raise ImageNotFound(f"{path} {what}", remedy=f"name one of its images: {known}" if known else None)


def _same(wanted: str, tag: str) -> bool:
    try:
        return str(parse_reference(tag)) == wanted
    except InvalidReference:
        return False


def _copy(archive: Archive, image: _SavedImage, context: Context, task: Task, stop: threading.Event) -> Fetched:
    document = archive.read(image.config, spec.MAX_CONFIG)
    config = spec.decode(document, spec.ConfigFile, "the image's configuration")
    if len(config.rootfs.diff_ids) != len(image.layers):
        raise CorruptImage("the image's configuration and manifest.json disagree about the number of layers")
    layers = []
    for name, diff_id in zip(image.layers, config.rootfs.diff_ids, strict=True):
        layer = context.blobs.add_layer(archive.chunks(name), context.limits, stop)
        if layer.diff_id != diff_id:
            raise DigestMismatch(
                f"the layer {name} is not what the image's configuration says", cause=f"expected {diff_id}, got {layer.diff_id}"
            )
        layers.append(layer)
        task.update(len(layers))
    return store_image(context.blobs, document, tuple(layers))

"""Who has exported a snapshot, as its receiver can know before anything else of it is read.

A signature is one of Ed25519 (RFC 8032) over the digest of the snapshot's manifest, which names all else by digests. It travels as an OCI
artifact whose ``subject`` is that manifest (image-spec 1.1, ``manifest.md``): listed in the index of a layout, and in a registry under the
tag ``sha256-<hex>.sig``, where signatures of images are as well. It says who vouches for the snapshot, and nothing of what is in it.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from bandsox.engine.snapshots.portable.parcel import encode_document
from bandsox.errors import CorruptImage, InvalidRequest, MissingTool, UntrustedSnapshot
from bandsox.images import spec

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ARTIFACT = "application/vnd.bandsox.snapshot.signature.v1"
EMPTY = b"{}"
"""The content of a blob that an artifact must have and says nothing with (image-spec 1.1, ``manifest.md``)."""

MOST = 64
"""How many signatures are looked at for one that will do."""

LIMIT = 16 << 10
"""The longest document of a signature, in bytes."""

_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
_VALUE = "dev.bandsox.snapshot.signature"
_CONTEXT = b"bandsox snapshot v1\0"
"""Stands before what is signed, so that no signature of the same key that was made for something else will do."""

_KEY_LIMIT = 64 << 10
_PUBLIC_KEY = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class _Document(msgspec.Struct, frozen=True, rename="camel"):
    """The manifest of a signature."""

    config: spec.Descriptor
    layers: Annotated[list[spec.Descriptor], Meta(max_length=1)]
    subject: spec.Descriptor
    annotations: dict[spec.Short, spec.Text]
    artifact_type: spec.Short
    schema_version: int = 2
    media_type: spec.Short = spec.OCI_MANIFEST


def sign(manifest: bytes, key: Path) -> bytes:
    """A signature of a snapshot's manifest, as the manifest of an artifact.

    Parameters
    ----------
    key: a file of this user's alone with an Ed25519 private key (PKCS #8, PEM, without a passphrase).

    Raises
    ------
    InvalidRequest: it has none, or others may read it. MissingTool: the Python package cryptography is not installed.
    """
    digest = spec.digest_of(manifest)
    value = base64.b64encode(_private_key(key).sign(_signed(digest))).decode()
    empty = spec.Descriptor(spec.digest_of(EMPTY), len(EMPTY), _EMPTY_TYPE)
    subject = spec.Descriptor(digest, len(manifest), spec.OCI_MANIFEST)
    return encode_document(_Document(empty, [empty], subject, {_VALUE: value}, ARTIFACT))


def described(document: bytes) -> spec.Descriptor:
    """How a layout's index lists a signature."""
    return spec.Descriptor(spec.digest_of(document), len(document), spec.OCI_MANIFEST, artifact_type=ARTIFACT)


def tag(digest: str) -> str:
    """Where a registry keeps the signature of a snapshot whose manifest has this digest."""
    return f"{digest.replace(':', '-')}.sig"


class Trust:
    """Keys of those from whom snapshots are taken; a signature of any of them will do.

    Parameters
    ----------
    path: a file with one or more Ed25519 public keys (SubjectPublicKeyInfo, PEM).

    Raises
    ------
    InvalidRequest: it has none. MissingTool: the Python package cryptography is not installed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys = _public_keys(path)

    def check(self, digest: str, documents: Iterable[bytes]) -> None:
        """See to it that one of these signatures, which may be anything, is of the manifest with this digest and by one of the keys.

        Raises
        ------
        UntrustedSnapshot: none is.
        """
        values = [value for document in documents if (value := _value(document, digest)) is not None]
        if any(_is_signed(key, value, digest) for key in self._keys for value in values):
            return
        raise UntrustedSnapshot(
            "the snapshot is not signed by anybody from whom one is taken",
            cause=f"it has no signature that a key of {self._path} has made" if values else "it is not signed",
            remedy="import it from where its maker has signed it, or add his public key to that file",
        )


def _value(document: bytes, digest: str) -> bytes | None:
    """The bytes of a signature of the manifest with this digest; None where the document is none."""
    found = _decoded(document)
    if found is None or found.subject.digest != digest:
        return None
    try:
        return base64.b64decode(found.annotations.get(_VALUE, ""), validate=True)
    except ValueError:
        return None


def _decoded(document: bytes) -> _Document | None:
    try:
        found = spec.decode(document, _Document, "a signature")
    except CorruptImage:
        return None
    return found if found.artifact_type == ARTIFACT else None


def _is_signed(key: Ed25519PublicKey, value: bytes, digest: str) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(value, _signed(digest))
    except InvalidSignature:
        return False
    return True


def _signed(digest: str) -> bytes:
    return _CONTEXT + digest.encode()


def _private_key(path: Path) -> Ed25519PrivateKey:
    with _library():
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

    remedy = "make one: openssl genpkey -algorithm ed25519 -out key.pem"
    content, mode = _read(path, "a key to sign with")
    if mode & _OTHERS:
        raise InvalidRequest(f"others may read the private key {path}", remedy=f"chmod 600 {path}, if nobody has read it")
    try:
        key = load_pem_private_key(content, None)
    except TypeError as error:
        raise InvalidRequest(f"the private key {path} has a passphrase", cause=str(error), remedy="use one without") from error
    except ValueError as error:
        raise InvalidRequest(f"{path} has no private key", cause=str(error), remedy=remedy) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidRequest(f"the private key {path} is not one of Ed25519", remedy=remedy)
    return key


def _public_keys(path: Path) -> Sequence[Ed25519PublicKey]:
    with _library():
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

    content, _ = _read(path, "a key to verify with")
    keys = []
    for block in _PUBLIC_KEY.findall(content):
        try:
            key = load_pem_public_key(block)
        except ValueError as error:
            raise InvalidRequest(f"a public key of {path} cannot be read", cause=str(error)) from error
        if not isinstance(key, Ed25519PublicKey):
            raise InvalidRequest(f"a public key of {path} is not one of Ed25519")
        keys.append(key)
    if not keys:
        raise InvalidRequest(f"{path} has no public key", remedy="make one: openssl pkey -in key.pem -pubout -out key.pub")
    return keys


def _read(path: Path, what: str) -> tuple[bytes, int]:
    """The content and the mode of a file with keys."""
    try:
        with path.open("rb") as file:
            return file.read(_KEY_LIMIT), os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise InvalidRequest(f"{what} cannot be read: {path}", cause=error.strerror) from error


@contextlib.contextmanager
def _library() -> Iterator[None]:
    """Within the block the library that signs is imported, which only those need who sign or verify.

    Raises
    ------
    MissingTool: it is not installed.
    """
    try:
        yield
    except ImportError as error:
        remedy = "pip install 'bandsox[signing]'"
        raise MissingTool("the Python package cryptography is not installed", cause=str(error), remedy=remedy) from error

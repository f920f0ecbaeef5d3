"""Signatures of snapshots that travel: what is believed of documents that anybody may have written, and of keys."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bandsox.engine.snapshots.portable import signing
from bandsox.errors import InvalidRequest, UntrustedSnapshot
from bandsox.images import spec

MANIFEST = b'{"schemaVersion":2}'
OTHER = b'{"schemaVersion":2,"other":true}'


def make_key(directory: Path, name: str, algorithm: str = "ed25519", *options: str) -> tuple[Path, Path]:
    """A private and its public key, as openssl(1) makes them."""
    private, public = directory / f"{name}.pem", directory / f"{name}.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", algorithm, *options, "-out", private], check=True, capture_output=True)
    private.chmod(0o600)
    password = ["-passin", "pass:word"] if "-aes256" in options else []
    subprocess.run(["openssl", "pkey", "-in", private, *password, "-pubout", "-out", public], check=True, capture_output=True)
    return private, public


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_key(tmp_path_factory.mktemp("keys"), "own")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_key(tmp_path_factory.mktemp("keys"), "stranger")


def test_a_signature_is_of_one_manifest_and_by_one_key(keys: tuple[Path, Path], stranger: tuple[Path, Path]) -> None:
    document = signing.sign(MANIFEST, keys[0])
    digest = spec.digest_of(MANIFEST)
    signing.Trust(keys[1]).check(digest, [document])
    for trust, subject in ((signing.Trust(stranger[1]), digest), (signing.Trust(keys[1]), spec.digest_of(OTHER))):
        with pytest.raises(UntrustedSnapshot):
            trust.check(subject, [document])


def test_of_several_keys_and_signatures_one_will_do(keys: tuple[Path, Path], stranger: tuple[Path, Path], tmp_path: Path) -> None:
    both = tmp_path / "both.pub"
    both.write_bytes(stranger[1].read_bytes() + b"\n# another\n" + keys[1].read_bytes())
    documents = [b"", b"{", signing.sign(OTHER, keys[0]), signing.sign(MANIFEST, keys[0])]
    signing.Trust(both).check(spec.digest_of(MANIFEST), documents)
    signing.Trust(keys[1]).check(spec.digest_of(MANIFEST), [signing.sign(MANIFEST, stranger[0]), *documents])


def test_what_is_not_signed_is_told_from_what_somebody_else_has_signed(keys: tuple[Path, Path], stranger: tuple[Path, Path]) -> None:
    trust = signing.Trust(keys[1])
    with pytest.raises(UntrustedSnapshot) as unsigned:
        trust.check(spec.digest_of(MANIFEST), [])
    with pytest.raises(UntrustedSnapshot) as foreign:
        trust.check(spec.digest_of(MANIFEST), [signing.sign(MANIFEST, stranger[0])])
    assert unsigned.value.cause == "it is not signed" and str(keys[1]) in str(foreign.value.cause)


def _with(path: str, value: object) -> Callable[[dict[str, Any]], object]:
    def change(document: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        inner = document
        for part in parents:
            inner = inner[part]
        inner[last] = value

    return change


FORGED = {
    "no value": _with("annotations", {}),
    "no base64": _with("annotations/dev.bandsox.snapshot.signature", "§§§"),
    "a short value": _with("annotations/dev.bandsox.snapshot.signature", "AAAA"),
    "another value": _with("annotations/dev.bandsox.snapshot.signature", "A" * 86 + "=="),
    "no text": _with("annotations/dev.bandsox.snapshot.signature", 7),
    "another type": _with("artifactType", "application/vnd.bandsox.snapshot.v1"),
    "another subject": _with("subject/digest", "sha256:" + "0" * 64),
    "no subject": _with("subject", None),
}


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED.keys())
def test_a_forged_signature_will_not_do(keys: tuple[Path, Path], change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(signing.sign(MANIFEST, keys[0]))
    change(document)
    with pytest.raises(UntrustedSnapshot):
        signing.Trust(keys[1]).check(spec.digest_of(MANIFEST), [json.dumps(document).encode()])


def test_a_signature_that_the_key_made_for_something_else_will_not_do(keys: tuple[Path, Path], tmp_path: Path) -> None:
    import base64

    digest = spec.digest_of(MANIFEST)
    (tmp_path / "text").write_text(digest)
    subprocess.run(
        ["openssl", "pkeyutl", "-sign", "-inkey", keys[0], "-rawin", "-in", tmp_path / "text", "-out", tmp_path / "signed"], check=True
    )
    document = json.loads(signing.sign(MANIFEST, keys[0]))
    document["annotations"] = {"dev.bandsox.snapshot.signature": base64.b64encode((tmp_path / "signed").read_bytes()).decode()}
    with pytest.raises(UntrustedSnapshot):
        signing.Trust(keys[1]).check(digest, [json.dumps(document).encode()])


def test_keys_that_will_not_do_are_named(keys: tuple[Path, Path], tmp_path: Path) -> None:
    ec = make_key(tmp_path, "ec", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    locked = make_key(tmp_path, "locked", "ed25519", "-aes256", "-pass", "pass:word")
    shared = tmp_path / "shared.pem"
    shared.write_bytes(keys[0].read_bytes())
    shared.chmod(0o640)
    empty = tmp_path / "empty"
    empty.touch(mode=0o600)
    for path, words in {
        ec[0]: "not one of Ed25519",
        locked[0]: "passphrase",
        shared: "others may read",
        empty: "no private key",
        tmp_path / "missing": "cannot be read",
    }.items():
        with pytest.raises(InvalidRequest, match=words):
            signing.sign(MANIFEST, path)
    for path, words in {ec[1]: "not one of Ed25519", keys[0]: "no public key", empty: "no public key", tmp_path: "cannot be read"}.items():
        with pytest.raises(InvalidRequest, match=words):
            signing.Trust(path)

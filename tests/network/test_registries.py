"""Packages from where packages come from, in a machine on this host's own network: `apt-get update`, `pip install`, through a policy too.

A host that does not reach the registries skips this.
"""

from __future__ import annotations

import ensurepip
import ssl
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bandsox import BandSox, MicroVM, Policy
from bandsox.network.policy import PRESETS

INDEX = "https://pypi.org/simple/"
PACKAGE = "six"
SUITE = "bookworm-updates"
"""One with a short list of packages."""

AUTHORITIES = ssl.get_default_verify_paths().cafile
"""Whom this host trusts: its way to the registries may be one of its own."""


@dataclass(frozen=True)
class Guest:
    """A machine that has pip, and knows one suite of packages of the mirror that its image came from."""

    vm: MicroVM
    mirror: str

    def install(self) -> None:
        """Fetch the list of packages afresh, and a package of Python's."""
        self.run("rm -rf /var/lib/apt/lists/* /root/packages")
        assert f"{SUITE} InRelease" in self.run("apt-get -o APT::Update::Error-Mode=any -o Acquire::Languages=none update")
        trust = "--cert /root/authorities.pem" if AUTHORITIES else ""
        options = (
            f"--no-input --disable-pip-version-check install --no-deps --no-compile {trust} --index-url {INDEX} --target /root/packages"
        )
        self.run(f"PYTHONPATH=/root/pip python3 -m pip {options} {PACKAGE}")
        assert self.run(f"PYTHONPATH=/root/packages python3 -c 'import {PACKAGE}; print({PACKAGE}.__file__)'").startswith("/root/packages/")

    def run(self, line: str) -> str:
        done = self.vm.run(line, timeout=280)
        assert done.exit_code == 0, (line, done.text, done.stderr.decode())
        return done.text


@pytest.fixture(scope="module")
def guest(bandsox: BandSox) -> Iterator[Guest]:
    reach(f"{INDEX}{PACKAGE}/")
    with bandsox.create_vm(mem_mib=512, enable_networking=True) as vm:
        words = vm.get_file_contents("/etc/apt/sources.list").split()
        mirror = next(word for word in words if word.startswith(("http://", "https://")))
        reach(f"{mirror.rstrip('/')}/dists/{SUITE}/InRelease")
        vm.write_text("/etc/apt/sources.list", f"deb {mirror} {SUITE} main\n")
        (wheel,) = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
        vm.write_bytes("/root/pip.whl", wheel.read_bytes())
        assert vm.run("python3 -m zipfile -e /root/pip.whl /root/pip").exit_code == 0
        if AUTHORITIES:
            vm.write_bytes("/root/authorities.pem", Path(AUTHORITIES).read_bytes())
        yield Guest(vm, str(urlsplit(mirror).hostname))


def reach(url: str) -> None:
    """Skip where this host itself gets nothing from there."""
    try:
        urllib.request.urlopen(url, timeout=30).close()
    except OSError as error:
        pytest.skip(f"this machine does not reach the registries: {error}")


@pytest.mark.timeout(900)
def test_packages_are_installed_without_a_policy_and_through_one(guest: Guest) -> None:
    guest.install()
    guest.vm.set_network_policy(Policy(allow=(*PRESETS["registry-only"].allow, guest.mirror)))
    guest.install()
    assert guest.vm.run("getent hosts example.com").exit_code == 2

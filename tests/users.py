"""An ordinary user, made for the purpose: no root, no group, no capability."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

import bandsox

USER = "bandsox-test"
TUN = Path("/dev/net/tun")
CHECKOUT = Path(bandsox.__file__).parent.parent
_SHOWN = Path("/mnt")
"""Where the user finds the checkout, which may be in a home directory that is root's alone."""


def ordinary_user() -> pwd.struct_passwd:
    """The user, made if need be, with subordinate ids as distributions give them."""
    if os.geteuid() != 0:
        pytest.skip("making a user needs root; these tests are about what a user without it can do")
    if TUN.exists():
        TUN.chmod(0o666)  # as distributions have it
    with _turn():
        try:
            return pwd.getpwnam(USER)
        except KeyError:
            useradd = shutil.which("useradd") or "/usr/sbin/useradd"
            subprocess.run([useradd, "--create-home", "--add-subids-for-system", USER], check=True)
            return pwd.getpwnam(USER)


def furnished_user() -> pwd.struct_passwd:
    """The user, with a kernel and the default image in a storage directory of their own, which is all that is fetched from outside."""
    account = ordinary_user()
    done = script("""
        from bandsox import BandSox
        with BandSox() as bandsox:
            bandsox.install_kernel()
            bandsox.install_image()
    """)
    assert done.returncode == 0, done.stderr
    return account


def as_user(command: list[str], *, within: Sequence[str] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command as the user, at home, where no other process of this test run has one running meanwhile.

    `within` is a program that root runs it by, such as nsenter(1).
    """
    account = pwd.getpwnam(USER)
    ids = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}"]
    with _turn():
        return subprocess.run(
            [*within, *_showing_checkout(), "setpriv", *ids, "--clear-groups", *command],
            env={"HOME": account.pw_dir, "USER": USER, "PATH": os.environ["PATH"], **environment},
            cwd=account.pw_dir,
            capture_output=True,
            text=True,
            check=False,
        )


def _showing_checkout() -> list[str]:
    """A program of root's that runs another where the checkout is mounted a second time, for that one and what it starts."""
    return ["unshare", "--mount", "--propagation=private", "sh", "-ec", f'mount --bind "$0" {_SHOWN}; exec "$@"', str(CHECKOUT)]


def _shown(path: str) -> str:
    """A path as the user knows it."""
    place = Path(path)
    return str(_SHOWN / place.relative_to(CHECKOUT)) if place.is_relative_to(CHECKOUT) else path


@contextmanager
def _turn() -> Iterator[None]:
    with (Path(tempfile.gettempdir()) / f"{USER}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def script(body: str, *, within: Sequence[str] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code as the user, with the packages of this environment; `within` as for `as_user`."""
    packages = os.pathsep.join([str(_SHOWN), *(_shown(path) for path in sys.path if path.endswith("site-packages"))])
    command = [interpreter(), "-c", textwrap.dedent(body)]
    return as_user(command, within=within, PYTHONPATH=packages, PYTHONDONTWRITEBYTECODE="1", **environment)


def interpreter() -> str:
    """A Python that every user may execute, of the same version, so that this environment's packages fit it."""
    starts_itself = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'pass'], check=True)"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (_shown(sys.executable), f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"):
        if as_user([candidate, "-c", starts_itself]).returncode == 0:
            return candidate
    pytest.fail(f"no Python {version} that an ordinary user may execute")

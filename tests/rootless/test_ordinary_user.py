"""All of it as an ordinary user, made for the purpose: no root, no group, no capability."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import bandsox

USER = "bandsox-test"
CHECKOUT = Path(bandsox.__file__).parent.parent


def interpreter() -> str:
    """A Python that every user may execute, of the same version, so that this environment's packages fit it."""
    starts_itself = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'pass'], check=True)"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"):
        if Path(candidate).exists() and as_user([candidate, "-c", starts_itself]).returncode == 0:
            return candidate
    pytest.fail(f"no Python {version} that an ordinary user may execute")


def as_user(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    account = pwd.getpwnam(USER)
    return subprocess.run(
        ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups", *command],
        env={"HOME": account.pw_dir, "USER": USER, "PATH": os.environ["PATH"], **environment},
        cwd=account.pw_dir,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def user() -> pwd.struct_passwd:
    """The user, made if need be, with subordinate ids as distributions give them."""
    if os.geteuid() != 0:
        pytest.skip("making a user needs root; these tests are about what a user without it can do")
    try:
        return pwd.getpwnam(USER)
    except KeyError:
        useradd = shutil.which("useradd") or "/usr/sbin/useradd"
        subprocess.run([useradd, "--create-home", "--add-subids-for-system", USER], check=True)
        return pwd.getpwnam(USER)


def script(user: pwd.struct_passwd, body: str, **environment: str) -> subprocess.CompletedProcess[str]:
    packages = os.pathsep.join([str(CHECKOUT), *(path for path in sys.path if path.endswith("site-packages"))])
    return as_user([interpreter(), "-c", textwrap.dedent(body)], PYTHONPATH=packages, PYTHONDONTWRITEBYTECODE="1", **environment)


def test_a_user_without_root_builds_an_image_and_runs_code(user: pwd.struct_passwd) -> None:
    done = script(
        user,
        """
        from bandsox import BandSox
        with BandSox() as bandsox, bandsox.create_vm() as vm:
            print(vm.exec_python_capture("print('Hello from VM!')")["stdout"], end="")
            vm.write_bytes("/root/file", b"written")
            vm.pause(), vm.resume(), vm.stop(), vm.start()
            print(vm.get_file_contents("/root/file"))
        print(bandsox.storage_dir)
        """,
    )
    assert done.stderr == ""
    assert done.stdout.split("\n")[:3] == ["Hello from VM!", "written", f"{user.pw_dir}/.local/share/bandsox"]


def test_another_users_storage_is_refused(user: pwd.struct_passwd, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "storage").mkdir(mode=0o777)
    done = script(
        user,
        """
        import os
        from bandsox import BandSox
        from bandsox.errors import HostError
        try:
            BandSox(os.environ["PLACE"])
        except HostError as error:
            print(error.code, error.remedy)
        """,
        PLACE=str(tmp_path / "storage"),
    )
    assert "BANDSOX_STORAGE" in done.stdout, done.stderr + done.stdout


def test_storage_and_sockets_are_the_users_alone(user: pwd.struct_passwd) -> None:
    done = script(
        user,
        """
        import os
        from pathlib import Path
        from bandsox import BandSox
        with BandSox() as bandsox, bandsox.create_vm() as vm:
            for root in (bandsox.storage_dir, bandsox.sockets_dir):
                print(oct(root.stat().st_mode & 0o777))
            for path in (*bandsox.sockets_dir.rglob("*"), *bandsox.metadata_dir.rglob("*")):
                if path.lstat().st_mode & 0o077:
                    print(path)
        """,
    )
    assert done.stdout.split() == ["0o700", "0o700"], done.stderr

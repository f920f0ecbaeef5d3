"""All of it as an ordinary user, made for the purpose: no root, no group, no capability."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from tests.users import ordinary_user, script


@pytest.fixture(scope="module")
def user() -> pwd.struct_passwd:
    return ordinary_user()


def test_a_user_without_root_builds_an_image_and_runs_code(user: pwd.struct_passwd) -> None:
    done = script(
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
        """
        import contextlib
        from bandsox import BandSox
        with BandSox() as bandsox, bandsox.create_vm() as vm:
            for root in (bandsox.storage_dir, bandsox.sockets_dir):
                print(oct(root.stat().st_mode & 0o777))
            for path in (*bandsox.sockets_dir.rglob("*"), *bandsox.metadata_dir.rglob("*")):
                with contextlib.suppress(FileNotFoundError):  # a machine is prepared meanwhile, for those after this one
                    if path.lstat().st_mode & 0o077:
                        print(path)
        """,
    )
    assert done.stdout.split() == ["0o700", "0o700"], done.stderr


def test_a_user_whose_pipes_are_full_saves_machines(user: pwd.struct_passwd) -> None:
    done = script(
        """
        import fcntl, os
        from bandsox import BandSox
        pipes = []
        try:
            while True:
                pipes.append(os.pipe())
                fcntl.fcntl(pipes[-1][0], fcntl.F_SETPIPE_SZ, 1 << 20)
        except PermissionError:
            pass
        with BandSox() as bandsox, bandsox.create_vm(vmm="qemu", mem_mib=160) as vm:
            vm.write_bytes("/root/file", b"written")
            snapshot = bandsox.snapshot_vm(vm, "small-pipe")
            with bandsox.restore_vm(snapshot) as copy:
                print(copy.get_file_contents("/root/file"))
            bandsox.delete_snapshot(snapshot)
        """,
    )
    assert (done.stdout, done.stderr) == ("written\n", "")

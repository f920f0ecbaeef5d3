"""The blocking faces have every public method of the asynchronous ones, with the same parameters, and end as they do."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from bandsox import AsyncBandSox, AsyncMicroVM, BandSox, MicroVM

PAIRS = {AsyncBandSox: BandSox, AsyncMicroVM: MicroVM}
ASYNC_ONLY = {"execute", "guest", "running", "refresh", "engine", "feed", "following_network_log"}
"""`execute` is a context around a running command; the blocking face has `stream` and sessions for that."""


def methods(kind: type) -> list[str]:
    return [name for name in dir(kind) if not name.startswith("_") and name not in ASYNC_ONLY]


@pytest.mark.parametrize(("asynchronous", "name"), [(kind, name) for kind in PAIRS for name in methods(kind)])
def test_the_blocking_face_has_it_too(asynchronous: type, name: str) -> None:
    theirs, ours = getattr(asynchronous, name), getattr(PAIRS[asynchronous], name)
    if not isinstance(theirs, property):
        assert inspect.signature(ours).parameters == inspect.signature(theirs).parameters
    assert inspect.getdoc(ours) == inspect.getdoc(theirs)


INTERFACE = {
    BandSox: """create_vm create_vm_from_dockerfile list_vms get_vm_info get_vm update_vm_metadata rename_vm update_vm_status delete_vm
        snapshot_vm restore_vm delete_snapshot rename_snapshot list_snapshots update_snapshot_metadata""",
    MicroVM: """exec_command exec_python exec_python_capture start_session start_pty_session send_session_input resize_session kill_session
        get_file_contents list_dir get_file_info download_file upload_file write_text append_text write_bytes append_file upload_folder
        get_guest_ip start stop pause resume delete snapshot wait_for_agent connect_to_console""",
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in INTERFACE.items() for name in names.split()])
def test_the_interface_of_the_original_is_there(kind: type, name: str) -> None:
    assert callable(getattr(kind, name))


def test_a_machine_is_deleted_at_the_end_of_either_block(bandsox: BandSox) -> None:
    """A second time does no harm: it may have been deleted on the way."""

    async def block() -> str:
        async with AsyncBandSox(bandsox.storage_dir) as asynchronous:
            async with await asynchronous.create_vm(disk_size_mib=0, enable_networking=False) as vm:
                with pytest.raises(ZeroDivisionError):
                    await asyncio.to_thread(fail_with, vm.vm_id)
                assert await asynchronous.get_vm(vm.vm_id) is None
            async with await asynchronous.create_vm(disk_size_mib=0, enable_networking=False) as vm:
                return vm.vm_id

    def fail_with(vm_id: str) -> None:
        vm = bandsox.get_vm(vm_id)
        assert vm is not None
        with vm:
            raise ZeroDivisionError

    assert bandsox.get_vm(asyncio.run(block())) is None

"""The registry, from several processes at once."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from bandsox.errors import Conflict, HostError, VMNotFound
from bandsox.models import ImageConfig, Isolation, VMRecord, VMSpec, VMStatus
from bandsox.store import Database, VMs


def record(vm_id: str, name: str, **metadata: object) -> VMRecord:
    return VMRecord(
        id=vm_id,
        spec=VMSpec(image="image", name=name, metadata=metadata),
        status=VMStatus.RUNNING,
        created_at=float(int(vm_id, 16) % 1000),
        image_id="sha256:00",
        image_config=ImageConfig(env={"A": "ü"}),
        rootfs=Path("/rootfs"),
        kernel=Path("/kernel"),
        initramfs=Path("/initramfs"),
        vmm="qemu",
        vmm_version="7.2",
        accelerator="tcg",
        accelerator_reason="",
        isolation=Isolation.EMULATED,
        transport="virtio-serial",
    )


@pytest.fixture
def vms(tmp_path: Path) -> VMs:
    return VMs(Database(tmp_path / "db"))


def test_a_record_comes_back_as_it_was(vms: VMs) -> None:
    vms.insert(record("00aa", "one", x=[1, {"y": None}]))
    assert vms.get("00aa") == record("00aa", "one", x=[1, {"y": None}])


def test_names_and_beginnings_of_ids_find_a_machine(vms: VMs) -> None:
    vms.insert(record("aaaa1111", "one"))
    vms.insert(record("aaaa2222", "aaaa1"))
    assert vms.get("one").id == "aaaa1111"
    assert vms.get("aaaa2").id == "aaaa2222"
    assert vms.get("aaaa1").id == "aaaa2222", "a name wins over the beginning of an id"
    with pytest.raises(Conflict):
        vms.get("aaaa")
    with pytest.raises(VMNotFound):
        vms.get("aa")
    with pytest.raises(VMNotFound):
        vms.get("*")


def test_a_name_belongs_to_one_machine(vms: VMs) -> None:
    vms.insert(record("00aa", "one"))
    vms.insert(record("00bb", "two"))
    with pytest.raises(Conflict):
        vms.insert(record("00cc", "one"))
    with pytest.raises(Conflict):
        vms.update("00bb", spec_name="one")
    assert vms.get("00bb").spec.name == "two"


def test_lists_are_newest_first_and_filtered_by_metadata(vms: VMs) -> None:
    vms.insert(record("0001", "old", colour="red"))
    vms.insert(record("0002", "new", colour="blue"))
    assert [found.spec.name for found in vms.list()] == ["new", "old"]
    assert [found.spec.name for found in vms.list(limit=1)] == ["new"]
    assert [found.spec.name for found in vms.list(metadata_equals={"colour": "red"})] == ["old"]


def test_what_was_deleted_is_not_updated(vms: VMs) -> None:
    vms.insert(record("00aa", "one"))
    vms.delete("00aa")
    vms.delete("00aa")
    with pytest.raises(VMNotFound):
        vms.update("00aa", status=VMStatus.STOPPED)


_WRITER = """
    import sys
    from pathlib import Path
    from bandsox.store import Database, VMs
    from tests.store.test_vms import record
    vms = VMs(Database(Path(sys.argv[1])))
    for number in range(50):
        vm_id = f"{int(sys.argv[2]):02x}{number:04x}"
        vms.insert(record(vm_id, vm_id))
        vms.update(vm_id, spec_metadata={"by": sys.argv[2]})
"""


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    script = [sys.executable, "-c", textwrap.dedent(_WRITER), str(tmp_path / "db")]
    writers = [subprocess.Popen([*script, str(number)]) for number in range(4)]
    assert [writer.wait() for writer in writers] == [0] * 4
    assert len(VMs(Database(tmp_path / "db")).list(metadata_equals={"by": "3"})) == 50


_CHANGER = """
    import sys
    from pathlib import Path
    from bandsox.store import Database, VMs
    vms, field = VMs(Database(Path(sys.argv[1]))), sys.argv[2]
    for number in range(100):
        vms.update("00aa", **{field: str(number)})
        assert getattr(vms.get("00aa"), field) == str(number)
"""


def test_no_change_to_a_record_is_lost_to_another_one_made_at_once(tmp_path: Path) -> None:
    vms = VMs(Database(tmp_path / "db"))
    vms.insert(record("00aa", "one"))
    fields = ("vmm_version", "accelerator_reason", "token")
    script = [sys.executable, "-c", textwrap.dedent(_CHANGER), str(tmp_path / "db")]
    changers = [subprocess.Popen([*script, field]) for field in fields]
    assert [changer.wait() for changer in changers] == [0] * 3
    assert [getattr(vms.get("00aa"), field) for field in fields] == ["99"] * 3


def test_a_registry_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    Database(tmp_path / "db").connection().execute("PRAGMA user_version = 1000")
    with pytest.raises(HostError, match="newer"):
        Database(tmp_path / "db")

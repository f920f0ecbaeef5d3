"""A VM's timeline, and templates, on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bandsox.settings import DEFAULT_IMAGE
from tests.cli.conftest import Cli


@pytest.fixture(scope="module")
def template(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The id of a template, made with a file of this host."""
    put = tmp_path_factory.mktemp("cli") / "put"
    put.write_text("put\n")
    words = ("--run", "cp /etc/put /root/file", "--file", f"{put}:/etc/put", "--mem", "256", "--vmm", "qemu", "--no-network")
    made = cli("template", "make", DEFAULT_IMAGE, *words, check=True).text.strip()
    assert cli("-q", "template", "make", DEFAULT_IMAGE, *words, check=True).text.strip() == made
    yield made
    assert cli("--json", "template", "rm", made, check=True).json == [{"id": made, "deleted": True}]


def test_a_vm_of_a_template_goes_back_in_time(cli: Cli, template: str) -> None:
    vm = cli("-q", "create", f"template:{template}", check=True).text.strip()
    try:
        assert cli("--json", "inspect", vm).json["receipt"]["frozen"] is True
        assert cli("vm", "checkpoint", vm, check=True).text == "1\n"
        cli("exec", vm, "sh", "-c", "echo changed > /root/file; mkdir /root/made", check=True)
        assert cli("--json", "vm", "checkpoint", vm, "after", check=True).json["label"] == "after"
        assert cli("vm", "diff", vm, "1", "after").text == "M /root/file\nA /root/made/\n"
        assert cli("--json", "vm", "diff", vm, "after", "1").json[1] == {
            "change": "removed", "path": "/root/made", "type": "directory", "size": 4096,
        }  # fmt: skip
        assert cli("--json", "vm", "rewind", vm, "1", check=True).json["status"] == "running"
        assert cli("exec", vm, "cat", "/root/file").text == "put\n"
        assert cli("vm", "checkpoints", vm, "-q").text == "1\nafter\n"
        titles, first, second = cli("vm", "checkpoints", vm).text.splitlines()
        assert titles.split() == ["LABEL", "AFTER", "CREATED", "SNAPSHOT"]
        assert (first.split()[:2], second.split()[:2]) == (["1", "-"], ["after", "-"])
        cli("vm", "checkpoint", vm, "after", "--remove", check=True)
        missing = cli("--json", "vm", "rewind", vm, "after")
        assert (missing.status, missing.error["code"]) == (1, "checkpoint_not_found")
        assert cli("vm", "checkpoint", vm, "--remove").status == 2
        assert cli("--json", "vm", "hibernate", vm, check=True).json[0]["status"] == "saved"
        assert cli("--json", "vm", "resume", vm, check=True).json[0]["status"] == "running"
    finally:
        cli("vm", "delete", vm, check=True)


def test_templates_on_the_command_line(cli: Cli, template: str, tmp_path: Path) -> None:
    assert cli("run", f"template:{template[:6]}", "--", "cat", "/root/file").text == "put\n"
    assert cli("template", "ls", "-q").text == f"{template}\n"
    row = cli("template", "list").text.splitlines()[1]
    assert row.startswith(template) and row.endswith("cp /etc/put /root/file")
    assert cli("--json", "template", "list").json[0]["setup"] == ["cp /etc/put /root/file"]
    assert cli("--json", "template", "prune", "--unused-for", "1d").json == []
    failed = cli("--json", "template", "make", DEFAULT_IMAGE, "--run", "echo why; exit 3", "--no-network")
    assert (failed.status, failed.error["code"]) == (1, "build_failed")
    assert cli("template", "make", DEFAULT_IMAGE, "--file", "nowhere").status == 2
    assert cli("template", "rm", "ffffffff").status == 1
    assert cli("create", f"template:{template}", "--mem", "512").status == 2

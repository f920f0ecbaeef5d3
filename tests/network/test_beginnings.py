"""A network is made while its machine's VMM starts: nothing gets through before all of it is there, and what fails leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.network.conftest import Runner, runner
from tests.network.lab import Lab

_TOOLS = """
    import contextlib, fcntl, json, os, select, subprocess
    from bandsox import BandSox, BandSoxError
    from bandsox.models import Policy
    from tests.network.bare import NFT, bare, end, interfaces, processes, table

    def instead_of_nft(directory, body):
        # every nft(8) that is started from now on is this
        programs = directory / "programs"
        programs.mkdir(mode=0o755, exist_ok=True)
        work = programs / "new"
        work.write_text(f"#!/bin/sh\\n{body}\\n")
        work.chmod(0o755)
        work.rename(programs / "nft")
        if str(programs) not in os.environ["PATH"]:
            os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"

    def forwards(namespace):
        # what the namespace is to its devices: a router, or not
        users = [] if namespace.users is None else [f"--user=/proc/self/fd/{namespace.users}", "--preserve-credentials"]
        switches = ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding", "/proc/sys/net/ipv6/conf/tap0/forwarding"]
        command = ["nsenter", *users, f"--net=/proc/self/fd/{namespace.descriptor}", "cat", *switches]
        passed = [descriptor for descriptor in (namespace.users, namespace.descriptor) if descriptor is not None]
        return subprocess.run(command, pass_fds=passed, capture_output=True, text=True, check=True).stdout.split()

    def failure(namespace):
        try:
            namespace.complete()
        except BandSoxError as error:
            return [error.message, str(error.cause)]
        return None
"""

_GATE = f"""
    {_TOOLS}
    with bare() as made, open(made.storage / "held", "w") as held:
        seen = {{}}
        os.chmod(held.name, 0o644)
        instead_of_nft(made.storage, f'flock --shared {{held.name}} true && exec {{NFT}} "$@"')
        for number, policy in enumerate((None, Policy(allow=("203.0.113.0/24",)))):
            fcntl.flock(held, fcntl.LOCK_EX)
            directory, _, namespace = made.begin(number, policy)
            before, quiet = forwards(namespace), not select.select([namespace.keeper], [], [], 0)[0]
            fcntl.flock(held, fcntl.LOCK_UN)
            namespace.complete()
            seen["with a policy" if policy else "without"] = {{"before": before, "quiet": quiet, "after": forwards(namespace)}}
            end(directory, namespace)
    print(json.dumps(seen))
"""

_FAILURES = f"""
    {_TOOLS}
    with bare() as made:
        before = interfaces()
        seen = {{}}
        for number, (body, policy) in enumerate((
            ("echo the kernel has no tables >&2; exit 1", None),
            ("echo the kernel has no tables >&2; exit 1", Policy()),
            ("kill -9 $PPID", Policy()),  # the filter's
        )):
            instead_of_nft(made.storage, body)
            directory, _, namespace = made.begin(number, policy)
            failed = failure(namespace)
            end(directory, namespace)
            seen[number] = [failed, interfaces() == before, table(), len(processes(made.storage))]
    print(json.dumps(seen))
"""

_MACHINES = f"""
    {_TOOLS}
    with bare() as made, BandSox() as bandsox:
        bandsox.pull_image("debootstrap:bookworm?include=python3", "missing")
        before, seen = interfaces(), {{}}
        instead_of_nft(made.storage, "echo the kernel has no tables >&2; exit 1")
        try:
            bandsox.create_vm(mem_mib=256, enable_networking=True).delete()
        except BandSoxError as error:
            seen["must"] = [error.code, str(error.cause)]
        seen["left"] = [len(bandsox.list_vms()), interfaces() == before, len(processes(bandsox.metadata_dir))]
        with bandsox.create_vm(mem_mib=256) as vm:
            info = vm.info()
            seen["may"] = [vm.run("ls /sys/class/net").text.split(), info["network_config"], info["network_reason"]]
    print(json.dumps(seen))
"""


def outcome(run: Runner, body: str) -> Any:
    done = run(body)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_nothing_is_forwarded_before_the_rules_are_in_force(on_host: Runner) -> None:
    closed_then_open = {"before": ["0", "0", "0"], "quiet": True, "after": ["1", "1", "1"]}
    assert outcome(on_host, _GATE) == {"without": closed_then_open, "with a policy": closed_then_open}


def test_what_fails_after_the_vmm_has_started_says_why_and_leaves_nothing(on_host: Runner) -> None:
    found = outcome(on_host, _FAILURES)
    for number, cause in {"0": "the kernel has no tables", "1": "the kernel has no tables", "2": "the filter"}.items():
        (message, said), *left = found[number]
        assert message == "this host cannot give the VM a network"
        assert cause in said
        assert left == [True, None, 0]


@pytest.fixture(scope="module")
def machines(world: Lab, storage: Path) -> Any:
    return outcome(runner(world, "root", storage), _MACHINES)


def test_a_machine_that_must_have_a_network_does_not_come_up_without(machines: Any) -> None:
    code, cause = machines["must"]
    assert code == "host_error"
    assert "the kernel has no tables" in cause
    assert machines["left"] == [0, True, 0]


def test_a_machine_that_need_not_comes_up_without_and_says_why(machines: Any) -> None:
    devices, config, reason = machines["may"]
    assert devices == ["lo"]
    assert config is None
    assert "the kernel has no tables" in reason

"""What root's networks leave on the host: nothing. Networks without machines, in a host of the tests."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.network.conftest import Runner, runner
from tests.network.lab import Lab

_ROUNDS = max(8, int(os.environ.get("BANDSOX_TEST_ROUNDS", "0")))

_LAST = """
    import concurrent.futures, json
    from bandsox.models import Policy
    from tests.network.bare import bare, end, table

    with bare() as made:
        seen = {"before": table()}
        first, second = made.make(1), made.make(2)
        seen["with two"] = table() is not None
        end(first[0], first[2])
        seen["with one"] = table() is not None
        end(second[0], second[2])
        seen["after"] = table()

        def one(number):
            directory, _, namespace = made.make(number, Policy() if number % 2 else None)
            kept = table() is not None
            end(directory, namespace)
            return kept

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            seen["kept"] = all(pool.map(one, range(3, 63)))
        seen["after all"] = table()
    print(json.dumps(seen))
"""

_KILLED = """
    import json, signal, subprocess
    from bandsox import BandSox
    from bandsox.network.keeper import interface_of
    from tests.network.bare import bare, end, interfaces, processes, table

    def kill(directory, namespace):
        of_it = processes(directory)
        for process in of_it:
            process.signal(signal.SIGKILL)
        end(directory, namespace)

    with bare() as made:
        before, seen = interfaces(), {}
        first, second = made.make(1), made.make(2)
        kill(first[0], first[2])
        seen["one lives"] = [table() is not None, made.networks.sweep(first[0]), table() is not None]
        kill(second[0], second[2])
        seen["none lives"] = [table() is not None, made.networks.sweep(second[0]), table() is not None]
        seen["interfaces"] = interfaces() == before
        third = made.make(3)
        kill(third[0], third[2])
        subprocess.run(["ip", "link", "delete", interface_of(third[0].name)], check=False)  # the kernel may have been faster
        seen["nobody asks"] = table() is not None
        with BandSox() as bandsox:
            bandsox.cleanup()
        seen["cleaned up"] = table() is not None
    print(json.dumps(seen))
"""

_LEAKS = """
    import json, os, subprocess
    from bandsox.models import Policy
    from tests.network.bare import bare, end, interfaces, processes

    with bare() as made:
        def state():
            return {
                "interfaces": interfaces(),
                "rules": subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout,
                "processes": len(processes(made.storage)),
                "files": len(os.listdir("/proc/self/fd")),
            }

        before = state()
        for number in range(int(os.environ["ROUNDS"])):
            directory, _, namespace = made.make(number, Policy() if number % 2 else None)
            end(directory, namespace)
        print(json.dumps([before, state()]))
"""


def outcome(run: Runner, body: str) -> Any:
    done = run(body, ROUNDS=str(_ROUNDS))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def seen(world: Lab, storage: Path) -> Any:
    return outcome(runner(world, "root", storage), _LAST)


def test_the_hosts_rules_go_with_the_last_network(seen: Any) -> None:
    assert seen["before"] is None
    assert seen["with two"] and seen["with one"]
    assert seen["after"] is None


def test_nobody_who_makes_a_network_loses_the_hosts_rules_to_one_who_ends(seen: Any) -> None:
    assert seen["kept"]
    assert seen["after all"] is None


def test_what_keepers_that_were_killed_have_left_is_removed_when_nobody_needs_it(world: Lab, storage: Path) -> None:
    seen = outcome(runner(world, "root", storage), _KILLED)
    assert seen["one lives"] == [True, None, True]
    assert seen["none lives"] == [True, None, False]
    assert seen["interfaces"]
    assert seen["nobody asks"]
    assert not seen["cleaned up"]


@pytest.mark.timeout(1800)
def test_rounds_leave_no_interface_rule_process_or_descriptor(on_host: Runner) -> None:
    before, after = outcome(on_host, _LEAKS)
    assert after == before

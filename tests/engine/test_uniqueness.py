"""Twenty clones of one running machine: no two of them have anything in common that should be their own, and all know what time it is."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import chain

import pytest

from bandsox import BandSox, MicroVM

CLONES = 20
CLOSE = 0.05
"""How near a clone's clock has to be to the host's, in seconds."""

DRAW = """
import json, os, secrets, ssl, uuid
print(json.dumps([os.getrandom(16).hex(), secrets.token_hex(16), uuid.uuid4().hex, ssl.RAND_bytes(16).hex()]))
"""
"""One number of each generator; Python's `ssl` asks OpenSSL's."""

RUNNING = """
import json, os, secrets, socket, uuid
name = socket.gethostname()
open("/dev/shm/begun", "w").close()
while socket.gethostname() == name:
    os.getrandom(16)
drawn = [[os.getrandom(16).hex(), secrets.token_hex(16), uuid.uuid4().hex] for _ in range(20)]
with open("/dev/shm/drawn.tmp", "w") as file:
    json.dump(drawn, file)
os.rename("/dev/shm/drawn.tmp", "/dev/shm/drawn")
"""
"""A program that is in the middle of drawing numbers when it is cloned, and writes down those it draws as somebody else."""


@pytest.fixture(scope="module")
def source(bandsox: BandSox) -> Iterator[MicroVM]:
    with bandsox.create_vm(mem_mib=256) as vm:
        vm.write_text("/root/running.py", RUNNING)
        vm.start_session("exec python3 /root/running.py")
        vm.run("until test -e /dev/shm/begun; do :; done")
        vm.run("cat /etc/machine-id > /dev/null 2>&1 || echo source > /etc/machine-id")
        yield vm


@pytest.fixture(scope="module")
def clones(source: MicroVM) -> Iterator[list[MicroVM]]:
    made = source.fork(CLONES)
    yield made
    for clone in made:
        clone.delete()


def test_nothing_ran_in_a_clone_before_it_was_renewed(clones: list[MicroVM]) -> None:
    for clone in clones:
        receipt = clone.receipt
        assert receipt is not None
        assert receipt.frozen
        assert receipt.failures == ()


def test_names_and_ids_are_their_own(source: MicroVM, clones: list[MicroVM]) -> None:
    machines = [source, *clones]
    for command in ("hostname", "cat /etc/hostname", "cat /etc/machine-id"):
        assert len({machine.run(command).stdout for machine in machines}) == len(machines), command


def test_no_generator_gives_two_clones_the_same_number(source: MicroVM, clones: list[MicroVM]) -> None:
    drawn = list(chain.from_iterable(json.loads(machine.run(["python3", "-c", DRAW]).stdout) for machine in [source, *clones]))
    assert len(set(drawn)) == len(drawn) == 4 * (CLONES + 1)


def test_a_program_that_went_on_in_all_clones_draws_other_numbers_in_each(clones: list[MicroVM]) -> None:
    drawn: list[str] = []
    for clone in clones:
        written = clone.run("until test -e /dev/shm/drawn; do :; done; cat /dev/shm/drawn", timeout=60).stdout
        drawn += chain.from_iterable(json.loads(written))
    assert len(set(drawn)) == len(drawn) == 60 * CLONES


def test_every_clone_has_the_hosts_time(clones: list[MicroVM]) -> None:
    for clone in clones:
        readings = []
        for _ in range(10):
            early = time.time()
            guests = clone.guest_info().time
            readings.append((early, guests, time.time()))
        early, guests, late = min(readings, key=lambda reading: reading[2] - reading[0])
        assert early - CLOSE <= guests <= late + CLOSE

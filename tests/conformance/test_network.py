"""A machine's network, where this host gives one, as a program in the guest finds it."""

from __future__ import annotations

import json

import pytest

from tests.faces import Machine

_PROBE = """
import errno, json, socket, struct
from pathlib import Path
routes = [line.split() for line in Path("/proc/net/route").read_text().splitlines()[1:]]
gateways = [socket.inet_ntoa(struct.pack("<I", int(route[2], 16))) for route in routes if route[1] == "00000000"]
found = {"devices": sorted(path.name for path in Path("/sys/class/net").iterdir()), "gateways": gateways}
for gateway in gateways:
    try:
        socket.create_connection((gateway, 9), 60).close()
        found["answer"] = "connected"
    except OSError as error:
        found["answer"] = errno.errorcode.get(error.errno, repr(error))
print(json.dumps(found))
"""


def test_a_machine_reaches_its_gateway_which_refuses_it(machine: Machine) -> None:
    """The refusal comes from the other end of the TAP device, so frames go both ways."""
    found = json.loads(machine.run(["python3", "-c", _PROBE]).stdout)
    if found["devices"] == ["lo"]:
        pytest.skip("this host, or the guest's kernel, gives no network")
    assert found["devices"] == ["eth0", "lo"]
    assert len(found["gateways"]) == 1
    assert found["answer"] == "ECONNREFUSED"

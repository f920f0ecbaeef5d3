"""Many operations of one machine at once, each on a connection of its own where there are as many as one likes."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bandsox import AsyncBandSox
from tests.firecracker import VMMS, options_for

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=VMMS)
def options(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Those with which a machine runs on each VMM in turn."""
    with options_for(request.param) as found:
        yield found


async def test_streams_in_both_directions_do_not_mix(storage: Path, options: dict[str, str]) -> None:
    inputs = [os.urandom(100_000 + 1000 * number) for number in range(24)]
    async with AsyncBandSox(storage) as bandsox:
        vm = await bandsox.create_vm(mem_mib=256, **options)  # type: ignore[arg-type]
        try:
            results = await asyncio.gather(*(vm.run(["cat"], stdin=content) for content in inputs))
            digests = await asyncio.gather(*(vm.run(["sha256sum"], stdin=content) for content in inputs))  # the input ends first
        finally:
            await vm.delete()
    assert [result.stdout for result in results] == inputs
    assert [result.text.split()[0] for result in digests] == [hashlib.sha256(content).hexdigest() for content in inputs]


async def test_an_operation_that_is_given_up_leaves_the_others_alone(storage: Path, options: dict[str, str]) -> None:
    async with AsyncBandSox(storage) as bandsox:
        vm = await bandsox.create_vm(mem_mib=256, **options)  # type: ignore[arg-type]
        try:
            endless = [asyncio.create_task(vm.run("cat /dev/zero | head -c 100000000; sleep 1000")) for _ in range(3)]
            assert (await vm.run(["echo", "meanwhile"])).stdout == b"meanwhile\n"
            for task in endless:
                task.cancel()
            await asyncio.gather(*endless, return_exceptions=True)
            answers = await asyncio.gather(*(vm.run(["echo", str(number)]) for number in range(12)))
        finally:
            await vm.delete()
    assert [answer.stdout for answer in answers] == [b"%d\n" % number for number in range(12)]

"""`python -m bench [boot|exec|cli|transfer|images|network|density|…]`: all of it, or what is named of the parts below."""

from __future__ import annotations

import asyncio
import sys

from bandsox.core import AsyncBandSox
from bench import boot, cli, commands, dashboard, density, figures, firecracker, images, network, pools, ports, server, snapshots, transfer

_PARTS = {
    "boot": boot.measure,
    "exec": commands.measure,
    "cli": cli.measure,
    "transfer": transfer.measure,
    "ports": ports.measure,
    "images": images.measure,
    "network": network.measure,
    "dashboard": dashboard.measure,
    "density": density.measure,
    "pools": pools.measure,
    "snapshots": snapshots.measure,
    "firecracker": firecracker.measure,
    "server": server.measure,
}


async def main(names: list[str]) -> None:
    async with AsyncBandSox() as bandsox:
        vm = await bandsox.create_vm()
        info = await vm.info()
        await vm.delete()
        print(f"{figures.machine()}; {info['vmm']} {info['vmm_version']}, {info['accelerator']}")
        for name in names or list(_PARTS):
            await _PARTS[name](bandsox)


asyncio.run(main(sys.argv[1:]))

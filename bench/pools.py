"""A machine of a template, from a warm pool, and from the disk, against what the hypervisor itself takes to let a paused one go on."""

from __future__ import annotations

from bandsox.core import AsyncBandSox
from bench.figures import Samples, table

ROUNDS = 10


async def measure(bandsox: AsyncBandSox) -> None:
    template = await bandsox.template(mem_mib=256, vmm="qemu")
    created, floor = Samples("create_vm of a template, and `true`"), Samples("bare resume, and an answer")
    taken, answered = Samples("take from a pool"), Samples("take from a pool, and `true`")
    saved, woken = Samples("hibernate"), Samples("resume from the disk")
    for _ in range(ROUNDS):
        with created.measuring():
            vm = await bandsox.create_vm(template)
            await vm.run(["true"])
        record, vmm = vm._record, bandsox.engine.vmms[vm._record.vmm]
        sockets = bandsox.engine.layout.sockets(record.id)
        await vmm.pause(sockets)
        with floor.measuring():
            await vmm.resume(sockets)
            await vm.guest.ping()
        await saved.of(1, vm.hibernate)
        await woken.of(1, vm.resume)
        await vm.delete()
    async with bandsox.pool(template, size=2) as pool:
        for _ in range(ROUNDS):
            await pool._pool.open()  # until the clone that was taken last is replaced
            with answered.measuring():
                with taken.measuring():
                    vm = await pool.take()
                await vm.run(["true"])
            await vm.delete()
    await bandsox.remove_template(template.id)
    over = (taken.median - floor.median) * 1000
    note = f"A pool's over the bare resume at the median: {over:.1f} ms (target: at most 5 ms)."
    table("Templates, pools and sleep", [created, floor, taken, answered, saved, woken], note)

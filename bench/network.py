"""What a network costs: creating a VM with one, with and without a policy, against one without; when it works in a VM that was
restored; and how much gets through it.

A guest takes seconds to boot where it is emulated, and differs by more than a network costs. So the parts are measured besides the whole:
what the host does before the VMM starts, what is waited for when it has, and the processor time that the VMM has taken by the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from functools import partial
from typing import Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from bandsox import tracing
from bandsox.core import AsyncBandSox
from bandsox.models import Policy
from bench import throughput
from bench.density import cpu_s
from bench.figures import Samples, table

ROUNDS = 40
_CLOSED = 9
"""A port of the guest that nobody listens on."""

POLICY = Policy(allow=("*.example.com", "203.0.113.0/24"))


class _Kind:
    """One way to create a machine, and what that took."""

    def __init__(self, name: str, **options: Any) -> None:
        self.options = options
        self.whole = Samples(f"create_vm {name}")
        self.before = Samples(f"{name}: namespace and TAP device, before the VMM starts")
        self.after = Samples(f"{name}: waited for rules, uplink and filter, when the VMM has started")
        self.busy = Samples(f"{name}: processor time of the VMM until the guest is there")

    @property
    def parts(self) -> list[Samples]:
        return [samples for samples in (self.before, self.after, self.busy) if samples.values]

    async def create(self, bandsox: AsyncBandSox, spans: InMemorySpanExporter) -> None:
        spans.clear()
        with self.whole.measuring():
            vm = await bandsox.create_vm(mem_mib=256, **self.options)
        self.busy.values.append(cpu_s(vm))
        took = {span.name: ((span.end_time or 0) - (span.start_time or 0)) / 1e9 for span in spans.get_finished_spans()}
        for name, samples in (("network", self.before), ("uplink", self.after)):
            samples.values += [took[name]] if name in took else []
        await vm.delete()


async def measure(bandsox: AsyncBandSox) -> None:
    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    kinds = without, within, policed = (
        _Kind("without a network", enable_networking=False),
        _Kind("with a network", enable_networking=True),
        _Kind("with a policy", network=POLICY),
    )
    tracing.begin_with(provider.get_tracer("bench"))
    try:
        for _ in range(ROUNDS):
            for kind in kinds:
                await kind.create(bandsox, spans)
    finally:
        tracing.begin_with(None)
    table(
        "Network",
        [*(kind.whole for kind in kinds), *(samples for kind in kinds for samples in kind.parts)],
        *(f"{name} costs {cost(than, kind)}" for name, kind, than in (("A network", within, without), ("A policy", policed, within))),
        "At most 40 ms are wanted for a network.",
    )
    await _after_a_restore(bandsox)
    throughput.begin(bandsox.storage_dir)


async def _after_a_restore(bandsox: AsyncBandSox) -> None:
    """From the end of `restore_vm` until the guest's kernel has answered over its network device: it refuses a connection of the host's, so
    that no program has a part in it. Only root's uplink lets the host in."""
    if os.geteuid() != 0:
        return
    first, later = Samples("the first answer over the network after a restore"), Samples("a later one")
    async with await bandsox.create_vm(mem_mib=256, enable_networking=True) as source:
        snapshot = await bandsox.snapshot_vm(source, "bench")
    try:
        for _ in range(ROUNDS):
            async with await bandsox.restore_vm(snapshot, enable_networking=True) as vm:
                answer = partial(_refused, await vm.get_guest_ip())
                await first.of(1, answer)
                await later.of(5, answer)
    finally:
        await bandsox.delete_snapshot(snapshot)
    table("The network of a VM that was restored", [first, later], "At most 50 ms are wanted for the first.")


async def _refused(address: str | None) -> None:
    with contextlib.suppress(ConnectionRefusedError):
        _, writer = await asyncio.open_connection(address, _CLOSED)
        writer.close()
        raise RuntimeError(f"somebody listens on port {_CLOSED} of {address}")


def cost(than: _Kind, kind: _Kind) -> str:
    """What one kind takes more than another, at the median."""
    host = sum(samples.median for samples in (kind.before, kind.after))
    host -= sum(samples.median for samples in (than.before, than.after) if samples.values)
    whole, busy = kind.whole.median - than.whole.median, kind.busy.median - than.busy.median
    return f"{whole * 1000:.0f} ms at the median: {host * 1000:.0f} ms of the host's, {busy * 1000:.0f} ms of the VMM's processor time."

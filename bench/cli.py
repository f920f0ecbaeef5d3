"""The processor time of whole commands, against a bare interpreter that does nothing."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

from bandsox.core import AsyncBandSox
from bench.figures import Samples, table

ROUNDS = 20

_BANDSOX = (sys.executable, "-m", "bandsox")


async def measure(bandsox: AsyncBandSox) -> None:
    vm = await bandsox.create_vm()
    commands = {
        "the interpreter alone": (sys.executable, "-c", "pass"),
        "`import bandsox.core`": (sys.executable, "-c", "import bandsox.core"),
        "`bandsox --version`": (*_BANDSOX, "--version"),
        "`bandsox --help`": (*_BANDSOX, "--help"),
        "`bandsox vm list`": (*_BANDSOX, "vm", "list"),
        "`bandsox exec VM true`": (*_BANDSOX, "exec", vm.vm_id, "true"),
    }
    samples = {name: Samples(name) for name in commands}
    try:
        for _ in range(ROUNDS):  # in turn, so that all meet the same noise
            for name, command in commands.items():
                samples[name].values.append(_run(bandsox, command))
    finally:
        await vm.delete()
    floor, *others = samples.values()
    over = "; ".join(f"{sample.name} {(sample.median - floor.median) * 1000:.0f} ms" for sample in others)
    notes = f"Over the interpreter at the median: {over} (target for the help: 120 ms)."
    table("Command line, in processor time", list(samples.values()), notes)


def _run(bandsox: AsyncBandSox, command: tuple[str, ...]) -> float:
    """Run a command; the seconds that the processors have spent on it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, env={**os.environ, "BANDSOX_STORAGE": str(bandsox.storage_dir)}, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

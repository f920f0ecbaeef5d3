"""Samples, their percentiles, and tables of them."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Samples:
    """Durations in seconds of one thing, measured several times."""

    name: str
    values: list[float] = field(default_factory=list)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.values.append(time.perf_counter() - start)

    async def of(self, times: int, operation: Callable[[], Awaitable[object]]) -> None:
        for _ in range(times):
            with self.measuring():
                await operation()

    def percentile(self, percent: int) -> float:
        ordered = sorted(self.values)
        return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def row(self) -> str:
        p50, p95, p99 = (f"{self.percentile(percent) * 1000:.1f}" for percent in (50, 95, 99))
        return f"| {self.name} | {len(self.values)} | {p50} | {p95} | {p99} |"


def table(title: str, samples: list[Samples], *notes: str) -> None:
    """Print samples as a Markdown table, in ms."""
    print(f"\n### {title}\n\n| | runs | p50 ms | p95 ms | p99 ms |\n|---|---|---|---|---|")
    for sample in samples:
        print(sample.row())
    for note in notes:
        print(f"\n{note}")


def machine() -> str:
    """The host in one line."""
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?")
    memory = int(Path("/proc/meminfo").read_text().split()[1]) // 1024 // 1024
    cores = Path("/proc/cpuinfo").read_text().count("processor\t")
    return f"{model}, {cores} cores, {memory} GiB, Linux {platform.release()}, Python {platform.python_version()}"

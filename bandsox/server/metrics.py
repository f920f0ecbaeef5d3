"""Figures for Prometheus: what was asked of this server, how long it took, and what the storage directory holds.

Labels are bounded: a request is counted under the pattern of its route, whatever its address was.
"""

from __future__ import annotations

import shutil
from collections import Counter as Counts
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from bandsox.models import VMRecord, VMStatus

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_LONG = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "bandsox_http_requests", "Requests that were answered.", ("method", "route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "bandsox_http_request_seconds", "How long they took.", ("method", "route"), buckets=_SHORT, registry=self.registry
        )
        self._answered: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._made = Histogram(
            "bandsox_vm_made_seconds", "How long new VMs took until they ran.", ("how",), buckets=_LONG, registry=self.registry
        )
        self._not_made = Counter("bandsox_vm_failures", "VMs that were to be made, and were not.", ("how", "code"), registry=self.registry)
        self.websockets = Gauge("bandsox_websockets_open", "WebSockets that are open.", registry=self.registry)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        method = method if method in _METHODS else "other"
        labels = method, route, status
        if labels not in self._answered:  # to look them up there takes longer than to count
            self._answered[labels] = self._requests.labels(method, route, str(status)), self._seconds.labels(method, route)
        count, duration = self._answered[labels]
        count.inc()
        duration.observe(seconds)

    def made(self, how: str, seconds: float) -> None:
        """Count machines that were made, by ``create``, ``restore`` or ``fork``."""
        self._made.labels(how).observe(seconds)

    def not_made(self, how: str, code: str) -> None:
        """Count machines that could not be made, with the error's code."""
        self._not_made.labels(how, code).inc()

    def text(self, storage: Path, records: Iterable[VMRecord], images: int, snapshots: int) -> bytes:
        """All figures, with those of the storage directory as it is now. Blocks."""
        now = CollectorRegistry()
        now.register(_Storage(storage, list(records), images, snapshots))
        return generate_latest(self.registry) + generate_latest(now)


class _Storage(Collector):
    def __init__(self, storage: Path, records: list[VMRecord], images: int, snapshots: int) -> None:
        self._storage, self._records, self._images, self._snapshots = storage, records, images, snapshots

    def collect(self) -> Iterator[Metric]:
        vms = GaugeMetricFamily("bandsox_vms", "VMs in each status.", labels=["status"])
        counts = Counts(record.status for record in self._records)
        for status in VMStatus:
            vms.add_metric([status.value], counts[status])
        yield vms
        running = [record.spec for record in self._records if record.status in {VMStatus.RUNNING, VMStatus.PAUSED}]
        yield GaugeMetricFamily("bandsox_vm_cpus", "CPUs of VMs that run or are paused.", sum(spec.vcpu for spec in running))
        yield GaugeMetricFamily("bandsox_vm_memory_bytes", "Their memory.", sum(spec.mem_mib for spec in running) << 20)
        yield GaugeMetricFamily("bandsox_images", "Images.", self._images)
        yield GaugeMetricFamily("bandsox_snapshots", "Snapshots.", self._snapshots)
        disk = shutil.disk_usage(self._storage)
        yield GaugeMetricFamily("bandsox_storage_free_bytes", "What is free on the storage directory's file system.", disk.free)
        yield GaugeMetricFamily("bandsox_storage_bytes", "What that file system holds in all.", disk.total)

"""A machine as data, in the shape that programs know."""

from __future__ import annotations

from typing import Any

import msgspec

from bandsox.models import PublishedPort, VMRecord, VMSpec, VMStatus


def vm_info(record: VMRecord) -> dict[str, Any]:
    """A machine as the interface shows it: the keys that programs know, and what this system adds."""
    spec = record.spec
    return {
        "id": record.id,
        "name": spec.name,
        "image": spec.image,
        "vcpu": spec.vcpu,
        "mem_mib": spec.mem_mib,
        "disk_size_mib": spec.disk_size_mib,
        "rootfs_path": str(record.rootfs),
        "network_config": None if record.network is None else msgspec.to_builtins(record.network),
        "network_policy": None if spec.policy is None else msgspec.to_builtins(spec.policy),
        "network_reason": record.network_reason,
        "secrets": {name: list(use.hosts) for name, use in spec.secrets.items()},
        "vsock_config": None,
        "created_at": record.created_at,
        "status": record.status.value,
        "pid": record.pid if record.status in {VMStatus.RUNNING, VMStatus.PAUSED} else None,
        "env_vars": _shown(spec),
        "mcp": None if spec.mcp is None else dict(spec.mcp),
        "metadata": dict(spec.metadata),
        "agent_ready": record.status is VMStatus.RUNNING,
        "restored_from": record.restored_from,
        "receipt": None if record.receipt is None else msgspec.to_builtins(record.receipt),
        "image_id": record.image_id,
        "vmm": record.vmm,
        "vmm_version": record.vmm_version,
        "accelerator": record.accelerator,
        "accelerator_reason": record.accelerator_reason,
        "isolation": record.isolation.name.lower(),
        "confinement": record.confinement.name.lower(),
        "confinement_reason": record.confinement_reason,
        "transport": record.transport,
        "balloon_mib": spec.balloon_mib,
        "ports": [_port_info(port) for port in spec.publish],
        "expires_at": record.expires_at,
        "idle_timeout": spec.idle_timeout,
        "on_expiry": spec.on_expiry,
        "auto_resume": spec.auto_resume,
    }


def _shown(spec: VMSpec) -> dict[str, str]:
    """Its variables, without the secrets of its MCP servers."""
    hidden = {name: value for server in (spec.mcp or {}).values() for name, value in server["env"].items()}
    return {**spec.env_vars, **hidden}


def _port_info(port: PublishedPort) -> dict[str, Any]:
    return {"guest_port": port.guest_port, "host_port": port.host_port, "host": port.host, "url": port.url}

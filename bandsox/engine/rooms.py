"""The rooms of one storage directory: images, kernels, hypervisors, networks.

A room is opened, and its code imported, when a verb first needs it: to list machines costs neither the registry client nor the
guest's protocol.
"""

from __future__ import annotations

import functools
import platform
from typing import TYPE_CHECKING

from bandsox.settings import Layout
from bandsox.store import Database, VMs

if TYPE_CHECKING:
    from bandsox.engine.accelerators import Accelerators
    from bandsox.images import Images
    from bandsox.network.keeper import Programs
    from bandsox.network.networks import Networks
    from bandsox.vmm.base import VMM
    from bandsox.vmm.confinement import Confiner
    from bandsox.vmm.kernel import Kernels


def network_programs() -> Programs:
    """The programs that keep and filter machines' networks.

    Raises
    ------
    HostError: they were not built.
    """
    from bandsox.network.keeper import Programs
    from bandsox.vmm.built import built_program

    keeper = built_program("bandsox-network", "the keeper of networks", platform.machine())
    filtering = built_program("bandsox-filter", "the filter of networks", platform.machine())
    return Programs(keeper, filtering, built_program("bandsox-cni", "what attaches VMs to CNI networks", platform.machine()))


class Rooms:
    """What the verbs stand on."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.database = Database(layout.database)
        self.vms = VMs(self.database)

    @functools.cached_property
    def images(self) -> Images:
        """Images, and the way from a reference to one of them."""
        from bandsox.images import Images

        return Images(self.layout, self.database)

    @functools.cached_property
    def kernels(self) -> Kernels:
        """Guest kernels with their initramfs."""
        from bandsox.vmm.kernel import Kernels

        return Kernels(self.layout)

    @functools.cached_property
    def vmms(self) -> dict[str, VMM]:
        """The hypervisors by name, in the order of preference."""
        from bandsox.vmm.firecracker import Firecracker
        from bandsox.vmm.qemu import Qemu

        return {
            "firecracker": Firecracker(self.layout.vmms / "firecracker", self.confiner),
            "qemu": Qemu(self.layout.runtime, self.confiner),
        }

    @functools.cached_property
    def confiner(self) -> Confiner:
        """What starts hypervisors in rooms of their own."""
        from bandsox.vmm.confinement import Confiner

        return Confiner(self.layout.programs, self.layout.runtime)

    @functools.cached_property
    def networks(self) -> Networks:
        """The machines' networks."""
        from bandsox.network.networks import Networks

        return Networks(self.layout.locks / "networks", network_programs, self.layout.attachments, self.layout.cni_plugins)

    @functools.cached_property
    def accelerators(self) -> Accelerators:
        """The choice among the hypervisors and their accelerators."""
        from bandsox.engine.accelerators import Accelerators
        from bandsox.store import Probes

        return Accelerators(self.layout, self.vmms, Probes(self.database))

"""A network for each machine, with root and without: a namespace of its own, gone with the machine.

    guest eth0 ── TAP │ namespace: rules, NAT, filter │ uplink ── host
                      └── held by the keeper and the VMM ──┘

The *keeper* (``bandsox-network``, a Go program of the agent's module) makes the namespace before the VMM starts, hands the library the TAP
device as a descriptor, makes the rest while the VMM starts, and stays until that has ended, which it learns from a pidfd. It works in the
machine's directory (`bandsox.engine.ownership`) and is the first process of a process namespace, so that the kernel ends with it whatever
it has started. The VMM inherits the TAP device and needs neither the namespace nor ``/dev/net/tun``. Nothing of all this has a name that
outlives it: the kernel removes namespace, devices, rules and addresses when the last of keeper and VMM is gone, whoever killed them.

The *uplink* is a pair of devices (veth) with NAT in a table of BandSox's own for root, and pasta(1) for everybody else. A pasta that
is killed is followed by another one.

Addresses are unique on a host (`bandsox.network.plan`): a lock that the keeper holds is the claim to them, and where there is
a veth pair, the route to them as well.

What gets through says `bandsox.network.rules`. The place of a *filter* is in the namespace: a program that the keeper starts there beside
rules and uplink (``Config.Filter`` in ``agent/internal/keeper``). The namespace forwards nothing until all of them are there, and no
program of the guest's runs before (`Namespace.complete`). When the filter ends, the keeper takes the
uplink away and ends: the machine goes on without a network. Should keeper and filter be killed together while there is a veth pair, only
what the rules allow by themselves gets through, so what a filter allows has to stand in a table that it owns
(``flags owner``, nft(8)), which the kernel removes with it.

The guest's side is the agent's (``agent/internal/network``): it gets the `bandsox.models.NetworkConfig` with its first message.
"""

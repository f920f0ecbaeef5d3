"""What gets through: the rules of a namespace, and of the host where there are veth pairs, as nftables(8) reads them.

In the namespace nothing passes that is not allowed. The guest is only believed to be who it is. It reaches its name servers and the
Internet, but no other machine, nothing of the host and nothing in a range that is not the Internet's (IANA, special-purpose address
registries); that is refused at once, not dropped. A filter (``agent/internal/filter``) puts rules of its own into the chains ``passage``
(connections that are known), ``egress`` (where the guest may go), ``services`` (what of the namespace itself it reaches) and ``noted``
(what is done about what is refused). The keeper puts the host's addresses and the machine's name servers into the sets that are for them.

``ct state invalid drop``: Debian 12's pasta answers the first data of a connection with a segment that has no flags, which the kernel
would take for none of the connection's and reset.
"""

from __future__ import annotations

from ipaddress import ip_interface

from bandsox.models import NetworkConfig
from bandsox.network import plan

GROUP = 0x62736E
"""The group of the host's ends of veth pairs (ip-link(8), ``group``), by which the host's rules know them."""

UPLINK = "uplink"

NOT_INTERNET4 = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
    *("192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4"),
)
NOT_INTERNET6 = ("::/8", "64:ff9b:1::/48", "100::/64", "2001::/32", "2002::/16", "fc00::/7", "fe80::/10", "ff00::/8")
"""Among them those that carry IPv4 addresses (mapped, Teredo, 6to4), behind which a private one could hide."""


def namespace_rules(config: NetworkConfig) -> str:
    """The rules of a machine's namespace."""
    tap = config.tap_name
    return f"""
table inet bandsox {{
    set host4 {{ type ipv4_addr; flags interval; auto-merge; }}
    set host6 {{ type ipv6_addr; flags interval; auto-merge; }}
    set resolvers4 {{ type ipv4_addr; }}
    set resolvers6 {{ type ipv6_addr; }}
    chain prerouting {{
        type filter hook prerouting priority mangle; policy accept;
        ct state invalid drop
        iifname "{tap}" ip saddr != {config.guest_ip} drop
        iifname "{tap}" ip6 saddr != {{ {config.guest_ipv6}, fe80::/10, :: }} drop
    }}
    chain services {{
    }}
    chain input {{
        type filter hook input priority filter; policy drop;
        ct state invalid drop
        iifname "lo" accept
        ct state established,related accept
        icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
        iifname "{tap}" icmp type echo-request accept
        iifname "{tap}" icmpv6 type echo-request accept
        iifname "{tap}" jump services
        iifname "{tap}" jump refuse
    }}
    chain noted {{
    }}
    chain refuse {{
        jump noted
        meta l4proto tcp reject with tcp reset
        reject with icmpx type admin-prohibited
    }}
    chain egress {{
        ip daddr @resolvers4 meta l4proto {{ tcp, udp }} th dport 53 accept
        ip6 daddr @resolvers6 meta l4proto {{ tcp, udp }} th dport 53 accept
        ip daddr {{ {", ".join(NOT_INTERNET4)} }} jump refuse
        ip6 daddr {{ {", ".join(NOT_INTERNET6)} }} jump refuse
        ip daddr @host4 jump refuse
        ip6 daddr @host6 jump refuse
        accept
    }}
    chain passage {{
        ct state established,related accept
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        ct state invalid drop
        ip6 saddr fe80::/10 drop
        jump passage
        iifname "{tap}" oifname "{UPLINK}" jump egress
        {_from_host(config)}
    }}
    {_nat(config)}
}}
"""


def host_rules() -> str:
    """The rules of a host with veth pairs: the same for all machines, and applied again with each, all at once."""
    return f"""
table inet bandsox
delete table inet bandsox
table inet bandsox {{
    chain input {{
        type filter hook input priority filter; policy accept;
        iifgroup {GROUP} ct state established,related accept
        iifgroup {GROUP} icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
        iifgroup {GROUP} drop
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifgroup {GROUP} oifgroup {GROUP} drop
        oifgroup {GROUP} ct state new drop
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {plan.POOL4} oifgroup != {GROUP} masquerade
        ip6 saddr {plan.POOL6} oifgroup != {GROUP} masquerade
    }}
}}
"""


def _from_host(config: NetworkConfig) -> str:
    """The host itself reaches its machines where it has a route to them; a CNI network decides who reaches those that are on it."""
    if config.uplink == "pasta":
        return ""
    if config.uplink == "cni":
        return f'iifname "{UPLINK}" oifname "{config.tap_name}" accept'
    return f"""
        iifname "{UPLINK}" ip saddr {plan.POOL4[1]} accept
        iifname "{UPLINK}" ip6 saddr {plan.POOL6[1]} accept
    """


def _nat(config: NetworkConfig) -> str:
    """pasta knows one address of the namespace, and so does a CNI network. The host's rules translate what comes over a veth pair, where
    the namespace's end has the same address in all namespaces, so that what a filter sends goes as the guest's."""
    inner4, inner6 = (ip_interface(address).ip for address in plan.link_addresses()[1])
    own = f"""
        oifname "{UPLINK}" ip saddr {inner4} snat ip to {config.guest_ip}
        oifname "{UPLINK}" ip6 saddr {inner6} snat ip6 to {config.guest_ipv6}
    """
    return f"""
    {_to_guest(config) if config.uplink == "cni" else ""}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        {own if config.uplink == "veth" else f'oifname "{UPLINK}" masquerade'}
    }}
    """


def _to_guest(config: NetworkConfig) -> str:
    """What comes for the namespace's address in a CNI network is the guest's."""
    return f"""
    chain inbound {{
        type nat hook prerouting priority dstnat; policy accept;
        iifname "{UPLINK}" meta nfproto ipv4 dnat ip to {config.guest_ip}
        iifname "{UPLINK}" meta nfproto ipv6 dnat ip6 to {config.guest_ipv6}
    }}
    """

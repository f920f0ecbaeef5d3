package filter

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

const (
	table = "inet bandsox" // made by the library (bandsox/network/rules.py), with the chains that are filled here

	// alive is the mark of packets that are let through while the filter lives (guard.go).
	alive = 0x62736e66

	// logGroup is where the kernel tells of what it has refused.
	logGroup = 0x6273

	setSize = 1 << 16
)

// listening is the filter's own ports.
type listening struct {
	dns   uint16 // UDP and TCP
	proxy uint16
}

// ruleset is a policy as nftables(8) reads it; it replaces the one before it in one transaction.
//
// A generation is a number for each policy. Connections that an older one allowed are looked at again with their next packet.
type ruleset struct {
	place      *Place
	policy     *Policy
	ports      listening
	generation uint32
}

// setName is what the set of a group's addresses is called.
func setName(generation uint32, group int, address netip.Addr) string {
	version := 6
	if address.Is4() {
		version = 4
	}
	return fmt.Sprintf("names%d_%d_%d", generation, group, version)
}

// text returns the rules. `old` are the sets of the generation before, which go.
func (r *ruleset) text(old []string) string {
	var b strings.Builder
	for _, chain := range []string{"passage", "egress", "services", "noted"} {
		fmt.Fprintf(&b, "flush chain %s %s\n", table, chain)
	}
	fmt.Fprintf(&b, "add chain %s steer { type nat hook prerouting priority dstnat; policy accept; }\nflush chain %s steer\n", table, table)
	for _, set := range old {
		fmt.Fprintf(&b, "delete set %s %s\n", table, set)
	}
	for i := range r.policy.groups() {
		for _, kind := range []string{"4; type ipv4_addr", "6; type ipv6_addr"} {
			version, kind, _ := strings.Cut(kind, "; ")
			fmt.Fprintf(&b, "add set %s names%d_%d_%s { %s; flags timeout; size %d; }\n", table, r.generation, i, version, kind, setSize)
		}
	}
	add := func(chain string, rules []string) {
		for _, rule := range rules {
			fmt.Fprintf(&b, "add rule %s %s %s\n", table, chain, rule)
		}
	}
	add("passage", r.passage())
	add("services", r.services())
	add("noted", []string{fmt.Sprintf("limit rate 100/second burst 200 packets log group %d snaplen 64", logGroup)})
	add("steer", r.steer())
	add("egress", r.egress())
	return b.String()
}

// passage is what packets of connections that are known already meet.
func (r *ruleset) passage() []string {
	return []string{
		fmt.Sprintf("meta mark != %#x jump refuse", alive),
		"ct state related accept",
		"ct direction reply ct state established accept",
		fmt.Sprintf("iifname %q ct state established ct mark %d accept", r.place.TAP, r.generation),
		fmt.Sprintf("iifname != %q ct state established accept", r.place.TAP),
	}
}

func (r *ruleset) services() []string {
	return []string{
		fmt.Sprintf("ct status dnat meta l4proto { tcp, udp } th dport %d accept", r.ports.dns),
		fmt.Sprintf("ct status dnat tcp dport %d accept", r.ports.proxy),
	}
}

// steer leads name service and connections whose names are to be looked at to the filter; the first rule that fits decides.
func (r *ruleset) steer() []string {
	here := fmt.Sprintf("iifname %q ", r.place.TAP)
	rules := []string{fmt.Sprintf("iifname != %q return", r.place.TAP)}
	for _, gateway := range r.place.Gateway {
		rules = append(rules, fmt.Sprintf("%smeta nfproto %s meta l4proto { tcp, udp } th dport 53 dnat %s to %s",
			here, nfproto(gateway), family(gateway), netip.AddrPortFrom(gateway, r.ports.dns)))
	}
	rules = append(rules, r.steerNames(true)...)
	for _, step := range r.byAddress() {
		if step.inspected {
			rules = append(rules, r.toProxy(step.match+" tcp dport { 80, 443 }", step.version)...)
		} else {
			rules = append(rules, step.match+" return")
		}
	}
	return append(rules, r.steerNames(false)...)
}

// steerNames leads connections to the addresses of names to the filter's proxy: of those that have secrets, or of the others.
func (r *ruleset) steerNames(secret bool) []string {
	var rules []string
	for i, group := range r.policy.groups() {
		if group.protocol != "tcp" || group.secret != secret {
			continue
		}
		for _, gateway := range r.place.Gateway {
			match := fmt.Sprintf("%s daddr @%s %s", family(gateway), setName(r.generation, i, gateway), portsMatch("tcp", group.ports))
			rules = append(rules, r.toProxy(match, gateway)...)
		}
	}
	return rules
}

// toProxy leads what matches to the filter's proxy over the same version of IP.
func (r *ruleset) toProxy(match string, version netip.Addr) []string {
	for _, gateway := range r.place.Gateway {
		if gateway.Is4() == version.Is4() {
			return []string{fmt.Sprintf("%s dnat %s to %s", match, family(gateway), netip.AddrPortFrom(gateway, r.ports.proxy))}
		}
	}
	return nil
}

// egress is where new connections may go past the filter.
func (r *ruleset) egress() []string {
	var rules []string
	if r.policy.inspects() {
		rules = append(rules, "udp dport 443 jump refuse") // QUIC hides its names
	}
	accept := fmt.Sprintf(" ct mark set %d accept", r.generation)
	rules = append(rules, r.policy.limit()...)
	for _, step := range r.byAddress() {
		verdict := " jump refuse"
		if step.allowed {
			verdict = accept
		}
		rules = append(rules, step.match+verdict)
	}
	for i, group := range r.policy.groups() {
		if group.protocol == "tcp" {
			continue
		}
		for _, gateway := range r.place.Gateway {
			match := fmt.Sprintf("%s daddr @%s %s", family(gateway), setName(r.generation, i, gateway), portsMatch(group.protocol, group.ports))
			rules = append(rules, match+accept)
		}
	}
	return append(rules, "jump refuse")
}

// step is a decision by address: the first that matches counts.
type step struct {
	match     string
	version   netip.Addr
	allowed   bool
	inspected bool // allowed, if its name is not denied
}

// byAddress is the decisions by address, in their order: what Policy.allowsAddress decides.
func (r *ruleset) byAddress() []step {
	var steps []step
	refuse := func(networks []netip.Prefix) {
		for _, network := range networks {
			steps = append(steps, step{match: addressMatch(network), version: network.Addr()})
		}
	}
	allow := func(wanted kind) {
		for _, rule := range r.policy.Allow {
			if rule.Name == "" && r.place.kindOf(rule.Net) == wanted {
				inspected := wanted == general && r.policy.inspects() && (rule.Protocol == "" || rule.Protocol == "tcp")
				steps = append(steps, step{ruleMatch(&rule), rule.Net.Addr(), true, inspected})
			}
		}
	}
	refuse(r.place.Machines)
	for _, rule := range r.policy.Deny {
		if rule.Name == "" {
			steps = append(steps, step{match: ruleMatch(&rule), version: rule.Net.Addr()})
		}
	}
	allow(exact)
	var own []netip.Prefix
	for _, address := range slices.Concat(r.place.Host, r.place.Gateway) {
		own = append(own, netip.PrefixFrom(address, address.BitLen()))
	}
	refuse(own)
	allow(special)
	refuse(r.place.Special)
	allow(general)
	return steps
}

func ruleMatch(rule *Rule) string {
	return strings.TrimSpace(addressMatch(rule.Net) + " " + portsMatch(rule.Protocol, rule.Ports))
}

func addressMatch(network netip.Prefix) string {
	if network.Bits() == 0 {
		return "meta nfproto " + nfproto(network.Addr())
	}
	return family(network.Addr()) + " daddr " + network.Masked().String()
}

func portsMatch(protocol string, ports []Ports) string {
	switch {
	case protocol == "icmp":
		return "meta l4proto { icmp, ipv6-icmp }"
	case protocol == "" && len(ports) == 0:
		return ""
	case len(ports) == 0:
		return "meta l4proto " + protocol
	}
	var ranges []string
	for _, p := range ports {
		if p.First == p.Last {
			ranges = append(ranges, fmt.Sprint(p.First))
		} else {
			ranges = append(ranges, fmt.Sprintf("%d-%d", p.First, p.Last))
		}
	}
	list := "{ " + strings.Join(ranges, ", ") + " }"
	if protocol == "" {
		return "meta l4proto { tcp, udp } th dport " + list
	}
	return protocol + " dport " + list
}

func family(address netip.Addr) string {
	if address.Is4() {
		return "ip"
	}
	return "ip6"
}

func nfproto(address netip.Addr) string {
	if address.Is4() {
		return "ipv4"
	}
	return "ipv6"
}

package filter

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Ports is a range of ports, both ends included.
type Ports struct {
	First uint16 `json:"first"`
	Last  uint16 `json:"last"`
}

// Rule is one kind of destination: a network or a name, over a protocol, at some ports.
type Rule struct {
	Net      netip.Prefix `json:"net"`
	Name     string       `json:"name"`     // in lower case without a final dot; "*.x" is whatever is below x; empty: the rule is of Net
	Protocol string       `json:"protocol"` // tcp, udp, icmp; empty: any
	Ports    []Ports      `json:"ports"`    // empty: all

	secret bool // of a host that has a secret: connections to it are looked into, whatever other rule would let them pass
}

// Policy is where a machine may go: what is allowed and not denied.
type Policy struct {
	Allow []Rule `json:"allow"`
	Deny  []Rule `json:"deny"`
	Learn bool   `json:"learn"` // look at the names in connections though nothing depends on them
	Limits
}

// Place is what a policy is applied in: the machine's surroundings.
type Place struct {
	TAP       string         `json:"tap"`
	Guest     []netip.Addr   `json:"guest"`
	Gateway   []netip.Addr   `json:"gateway"`  // the namespace's on the TAP device, IPv4 and IPv6
	Host      []netip.Addr   `json:"-"`        // the host's own
	Machines  []netip.Prefix `json:"machines"` // of all machines of all hosts: never reached
	Special   []netip.Prefix `json:"special"`  // not the Internet's
	Resolvers []netip.Addr   `json:"-"`        // name servers to ask
}

// matchesName tells whether the rule is of this name.
func (r *Rule) matchesName(name string) bool {
	if parent, ok := strings.CutPrefix(r.Name, "*"); ok {
		return strings.HasSuffix(name, parent) && len(name) > len(parent)
	}
	return r.Name != "" && r.Name == name
}

func (r *Rule) matchesPort(protocol string, port uint16) bool {
	if r.Protocol != "" && r.Protocol != protocol {
		return false
	}
	return len(r.Ports) == 0 || slices.ContainsFunc(r.Ports, func(p Ports) bool { return p.First <= port && port <= p.Last })
}

// kind says how much a rule of a network names what it allows.
type kind int

const (
	general kind = iota // a part of the Internet
	special             // a range that is not the Internet's, or a part of one
	exact               // one address
)

func (p *Place) kindOf(network netip.Prefix) kind {
	if network.IsSingleIP() {
		return exact
	}
	within := func(s netip.Prefix) bool { return s.Bits() <= network.Bits() && s.Contains(network.Addr()) }
	if slices.ContainsFunc(p.Special, within) {
		return special
	}
	return general
}

// isSpecial tells whether an address is none of the Internet's, or the host's.
func (p *Place) isSpecial(address netip.Addr) bool {
	contains := func(network netip.Prefix) bool { return network.Contains(address) }
	return !address.IsValid() || slices.ContainsFunc(p.Special, contains) || slices.ContainsFunc(p.Machines, contains) ||
		slices.Contains(p.Host, address) || slices.Contains(p.Gateway, address)
}

// allowsAddress tells whether a destination is allowed by its address alone: the same decision as that of the kernel's rules (rules.go).
func (p *Policy) allowsAddress(place *Place, to netip.AddrPort, protocol string) bool {
	address := to.Addr()
	if slices.ContainsFunc(place.Machines, func(network netip.Prefix) bool { return network.Contains(address) }) || p.deniesAddress(to, protocol) {
		return false
	}
	needed := general
	if slices.Contains(place.Host, address) || slices.Contains(place.Gateway, address) {
		needed = exact
	} else if place.isSpecial(address) {
		needed = special
	}
	return slices.ContainsFunc(p.Allow, func(r Rule) bool {
		return r.Name == "" && r.Net.Contains(address) && r.matchesPort(protocol, to.Port()) && place.kindOf(r.Net) >= needed
	})
}

func (p *Policy) deniesAddress(to netip.AddrPort, protocol string) bool {
	return slices.ContainsFunc(p.Deny, func(r Rule) bool {
		return r.Name == "" && r.Net.Contains(to.Addr()) && r.matchesPort(protocol, to.Port())
	})
}

// resolves tells whether the machine may learn the addresses of a name: one that a rule allows at some port and none denies at every port.
// A policy that allows all of the Internet allows all names.
func (p *Policy) resolves(name string) bool {
	denied := func(r Rule) bool { return r.matchesName(name) && r.Protocol == "" && len(r.Ports) == 0 }
	allowed := func(r Rule) bool { return r.matchesName(name) || r.Name == "" && r.Net.Bits() == 0 && r.Net.IsValid() }
	return !slices.ContainsFunc(p.Deny, denied) && slices.ContainsFunc(p.Allow, allowed)
}

// allowsName tells whether a connection to a port is allowed because of the name it is for.
func (p *Policy) allowsName(name, protocol string, port uint16) bool {
	return slices.ContainsFunc(p.Allow, func(r Rule) bool { return r.matchesName(name) && r.matchesPort(protocol, port) })
}

func (p *Policy) deniesName(name, protocol string, port uint16) bool {
	return slices.ContainsFunc(p.Deny, func(r Rule) bool { return r.matchesName(name) && r.matchesPort(protocol, port) })
}

// inspects tells whether connections that are allowed by their addresses are looked at for names too.
func (p *Policy) inspects() bool {
	return p.Learn || slices.ContainsFunc(p.Deny, func(r Rule) bool { return r.Name != "" })
}

// group is the name rules of one protocol and the same ports: the kernel has a set of addresses for each.
type group struct {
	protocol string
	ports    []Ports
	secret   bool
	rules    []Rule
}

func (p *Policy) groups() []group {
	var found []group
	for _, rule := range p.Allow {
		if rule.Name == "" {
			continue
		}
		same := func(g group) bool {
			return g.protocol == rule.Protocol && g.secret == rule.secret && slices.Equal(g.ports, rule.Ports)
		}
		if i := slices.IndexFunc(found, same); i >= 0 {
			found[i].rules = append(found[i].rules, rule)
		} else {
			found = append(found, group{rule.Protocol, rule.Ports, rule.secret, []Rule{rule}})
		}
	}
	return found
}

func (g *group) has(name string) bool {
	return slices.ContainsFunc(g.rules, func(r Rule) bool { return r.matchesName(name) })
}

// with is the policy that allows these hosts besides.
func (p *Policy) with(hosts []Rule) *Policy {
	if len(hosts) == 0 {
		return p
	}
	wider := *p
	wider.Allow = slices.Concat(p.Allow, hosts)
	return &wider
}

// check refuses what the library never sends, so that what is read here can be trusted in the text of rules.
func (p *Policy) check() error {
	for _, rule := range slices.Concat(p.Allow, p.Deny) {
		if (rule.Name == "") != rule.Net.IsValid() {
			return fmt.Errorf("a rule is of a network or of a name: %+v", rule)
		}
		if !slices.Contains([]string{"", "tcp", "udp", "icmp"}, rule.Protocol) {
			return fmt.Errorf("an unknown protocol: %q", rule.Protocol)
		}
	}
	return nil
}

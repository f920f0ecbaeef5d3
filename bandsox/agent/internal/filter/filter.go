// Package filter decides what of a machine's network traffic gets out. It runs in the machine's namespace, one for each machine that has a
// policy, started by the keeper (internal/keeper).
//
// What depends on addresses alone is decided by the kernel (rules.go). The filter is the machine's only name server: it answers for names
// that are allowed, and has let the addresses through before it answers (resolver.go). Connections to such addresses come to the filter
// (proxy.go), which looks at the name they are for and carries them on.
//
// It fails closed: packets pass only while a table exists that the kernel removes with this process (guard.go).
package filter

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Config is what the keeper hands on, as JSON.
type Config struct {
	Place  Place   `json:"place"`
	Nft    string  `json:"nft"`
	Policy *Policy `json:"policy"` // nil: everything that is not special
	Limits Limits  `json:"limits"`
	Vault  *Vault  `json:"vault"` // nil: no secrets, and no connection is looked into
}

// Filter is the filter of one machine.
type Filter struct {
	place   Place
	nft     string
	kernel  *kernel
	answers answers
	log     *Log
	proxy   *proxy
	dns     *resolver
	vault   *vault // nil: there are no secrets
	ports   listening

	changing   sync.Mutex // of the policy
	generation uint32
	sets       []string // of that generation
	rules      atomic.Pointer[Policy]
}

// New makes a filter that listens and has its rules in force; nothing gets through before.
//
// rules are in force with them, first; uplinked returns when there is an uplink.
func New(config *Config, log *Log, rules string, uplinked func() error) (*Filter, func() error, error) {
	f := &Filter{place: config.Place, nft: config.Nft, log: log}
	f.dns, f.proxy = newResolver(f), newProxy(f)
	if config.Vault != nil {
		var err error
		if f.vault, err = openVault(config.Vault); err != nil {
			return nil, nil, fmt.Errorf("secrets: %w", err)
		}
		f.proxy.web.lookInto(f.vault)
	}
	var packets []net.PacketConn
	var names, connections []net.Listener
	for _, gateway := range config.Place.Gateway {
		packet, name, connection, err := f.listen(gateway)
		if gateway.Is6() && (errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT)) { // a kernel without IPv6
			continue
		} else if err != nil {
			return nil, nil, fmt.Errorf("listening: %w", err)
		}
		packets, names, connections = append(packets, packet), append(names, name), append(connections, connection)
	}
	var err error
	if f.kernel, err = openKernel(); err != nil {
		return nil, nil, err
	}
	watch, err := (&flows{f, map[uint32]Entry{}}).watch()
	if err != nil {
		return nil, nil, err
	}
	policy, err := f.checked(config.Policy)
	if err != nil {
		return nil, nil, err
	}
	if err := f.enforce(policy, rules); err != nil {
		return nil, nil, err
	}
	if err := uplinked(); err != nil {
		return nil, nil, err
	}
	if err := policy.shape(f.place.TAP); err != nil {
		return nil, nil, err
	}
	return f, func() error {
		failed := make(chan error, 2+len(connections))
		go func() { failed <- watch() }()
		go func() { failed <- f.dns.serve(packets, names) }()
		for _, listener := range connections {
			go func() { failed <- f.proxy.serve(listener) }()
		}
		return <-failed
	}, nil
}

// listen takes ports on an address: any for the first, the same for the others.
func (f *Filter) listen(gateway netip.Addr) (net.PacketConn, net.Listener, net.Listener, error) {
	for range 16 { // a port that is free for UDP may be taken for TCP
		packet, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(gateway, f.ports.dns)))
		if err != nil {
			return nil, nil, nil, err
		}
		port := packet.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		names, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(gateway, port)))
		if errors.Is(err, unix.EADDRINUSE) && f.ports.dns == 0 {
			packet.Close()
			continue
		} else if err != nil {
			return nil, nil, nil, err
		}
		connections, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(gateway, f.ports.proxy)))
		if err != nil {
			return nil, nil, nil, err
		}
		f.ports = listening{dns: port, proxy: connections.Addr().(*net.TCPAddr).AddrPort().Port()}
		return packet, names, connections, nil
	}
	return nil, nil, nil, unix.EADDRINUSE
}

func (f *Filter) policy() *Policy { return f.rules.Load() }

// apply puts a policy in force: for new connections, and for those that are there with their next packet.
func (f *Filter) apply(policy *Policy) error {
	policy, err := f.checked(policy)
	if err != nil {
		return err
	}
	f.changing.Lock()
	defer f.changing.Unlock()
	if err := policy.shape(f.place.TAP); err != nil {
		return err
	}
	return f.enforce(policy, "")
}

// checked is a policy that can be put in force, with the hosts of the secrets.
func (f *Filter) checked(policy *Policy) (*Policy, error) {
	if err := policy.check(); err != nil {
		return nil, err
	}
	if f.vault != nil {
		policy = policy.with(f.vault.hosts)
	}
	return policy, nil
}

// enforce is apply but for the limits of the devices; `before` are rules that come first.
func (f *Filter) enforce(policy *Policy, before string) error {
	rules := ruleset{&f.place, policy, f.ports, f.generation + 1}
	if err := f.load(before + rules.text(f.sets)); err != nil {
		return err
	}
	f.kernel.forget()
	f.generation, f.sets = rules.generation, nil
	for i := range policy.groups() {
		for _, version := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			f.sets = append(f.sets, setName(f.generation, i, version))
		}
	}
	f.rules.Store(policy)
	f.proxy.review()
	return f.readmit()
}

// Reshape limits the uplink again, which is another one.
func (f *Filter) Reshape() error {
	f.changing.Lock()
	defer f.changing.Unlock()
	return f.policy().shape(f.place.TAP)
}

// readmit lets through again what the machine was told under an older policy and this one allows.
func (f *Filter) readmit() error {
	var elements []element
	f.answers.each(func(name string, address netip.Addr, left time.Duration) {
		elements = append(elements, f.elements(name, []netip.Addr{address}, left)...)
	})
	return f.kernel.admit(elements)
}

// learn lets the addresses of a name through for some time, and remembers it.
func (f *Filter) learn(name string, addresses []netip.Addr, last time.Duration) error {
	f.changing.Lock()
	defer f.changing.Unlock()
	for _, address := range addresses {
		f.answers.add(name, address, time.Now().Add(last))
	}
	return f.kernel.admit(f.elements(name, addresses, last))
}

// elements is what of the present generation's sets a name's addresses belong in.
func (f *Filter) elements(name string, addresses []netip.Addr, last time.Duration) []element {
	var found []element
	for i, group := range f.policy().groups() {
		if !group.has(name) {
			continue
		}
		for _, address := range addresses {
			found = append(found, element{setName(f.generation, i, address), address, last})
		}
	}
	return found
}

// load gives rules to nft(8), which applies all of them or none.
func (f *Filter) load(rules string) error {
	command := exec.Command(f.nft, "-f", "-")
	command.Stdin = bytes.NewBufferString(rules)
	command.Env = []string{}
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, bytes.TrimSpace(output))
	}
	return nil
}

// nameOf is the name that the machine most likely means by an address: of those that it may ask for now, the one it was told last.
func (f *Filter) nameOf(address netip.Addr) string {
	policy := f.policy()
	for _, name := range f.answers.names(address) {
		if policy.resolves(name) {
			return name
		}
	}
	return ""
}

// complain tells the keeper's log of what nobody else can be told.
func (f *Filter) complain(err error) { fmt.Fprintln(os.Stderr, "bandsox-filter:", err) }

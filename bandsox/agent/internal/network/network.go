// Package network gives the machine its place in a network, with nothing of the image's.
package network

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"bandsox.dev/agent/internal/netlink"
	"bandsox.dev/agent/internal/uevent"
	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

// linkLocal is the device's address on its link, where there is nobody else but the namespace's end. Left to itself the kernel makes one of
// the hardware address, which costs each machine that goes on from one that was saved as much as all its other addresses.
var linkLocal = netip.MustParsePrefix("fe80::2/64")

// linkLapse is how long the kernel may take to look at a link that has come (Linux, net/core/link_watch.c: it does at most once in a second).
const linkLapse = 3 * time.Second

// begun is the device that Begin has brought up, until it is configured.
var begun atomic.Pointer[device]

// Begin brings the device up with what all machines have, so that those that go on from one that was saved need not: an address on its
// link, how much it carries at once (0: as the device says), and the way to the world over IPv6 (empty: there is none).
func Begin(mtu int, gateway string) error {
	d, err := open()
	if err != nil {
		return err
	}
	common := &place{mac: d.mac, mtu: d.mtu}
	if mtu != 0 {
		common.mtu = mtu
	}
	if gateway != "" {
		common.gateways = make([]netip.Addr, 1)
		common.gateways[0], err = netip.ParseAddr(gateway)
	}
	if err == nil {
		err = d.prepare()
	}
	if err == nil {
		err = d.take(common)
	}
	if err != nil {
		d.conn.Close()
		return fmt.Errorf("%s: %w", d.name, err)
	}
	begun.Store(d)
	return nil
}

// Settle waits until the kernel has seen that the link of the device that Begin has brought up is there, which no machine waits for
// otherwise: what the kernel does then it would do in each that goes on from this one. A link that does not come is no fault.
func Settle() error {
	d := begun.Load()
	if d == nil {
		return nil
	}
	links, err := uevent.ListenLinks()
	if err != nil {
		return err
	}
	defer links.Close()
	err = links.Until(time.Now().Add(linkLapse), func() bool { return d.text("operstate") == "up" })
	if errors.Is(err, uevent.ErrTimeout) {
		return nil
	}
	return err
}

// Configure makes the machine's network device what the configuration says: hardware address, MTU,
// addresses and routes, IPv4 and IPv6. What it had before is gone. It serves a machine that has
// booted and one that has woken up as a clone: the network is usable when it returns, and
// whoever remembers the old hardware address of a clone is told (gratuitous ARP, unsolicited neighbour advertisement).
func Configure(config *wire.NetworkConfig) error {
	p, err := parse(config)
	if err != nil {
		return wire.Fail(wire.CodeInvalid, "%v", err)
	}
	d := begun.Swap(nil)
	if d == nil {
		if d, err = open(); err != nil {
			return err
		}
		err = d.prepare()
	} else if slices.ContainsFunc(d.gateways, func(gateway netip.Addr) bool { return !slices.Contains(p.gateways, gateway) }) {
		err = d.forget()
	}
	defer d.conn.Close()
	if err == nil {
		err = d.take(p)
	}
	if err != nil {
		return wire.AsFailure(fmt.Errorf("%s: %w", d.name, err))
	}
	return nil
}

// place is what a device is to be.
type place struct {
	mac       net.HardwareAddr
	mtu       int
	addresses []netip.Prefix
	gateways  []netip.Addr
}

// take gives the device its place. One that is down is brought up when it has its addresses, which are all told of at once; one that is up has
// nothing yet but what Begin gives it.
func (d *device) take(p *place) error {
	if !bytes.Equal(p.mac, d.mac) {
		if err := d.conn.SetMAC(d.name, [6]byte(p.mac)); err != nil {
			return err
		}
	}
	addresses := p.addresses
	if !d.up {
		addresses = append(slices.Clone(addresses), linkLocal)
	}
	if err := d.addAddresses(addresses); err != nil {
		return err
	}
	change := netlink.Settings{Up: !d.up}
	if p.mtu != d.mtu {
		change.MTU = p.mtu
	}
	if change.Up || change.MTU != 0 {
		if err := d.conn.Set(d.index, change); err != nil {
			return err
		}
	}
	d.mac, d.mtu, d.up = p.mac, p.mtu, true
	return d.addGateways(p.gateways)
}

// isMissingVersion6 tells whether an IPv6 address was refused by a kernel that has no IPv6.
func isMissingVersion6(address netip.Addr, err error) bool {
	if address.Is4() || !(errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EACCES)) {
		return false
	}
	_, missing := os.Stat(conf6)
	return missing != nil
}

func parse(config *wire.NetworkConfig) (*place, error) {
	if len(config.MAC) != 6 {
		return nil, fmt.Errorf("a hardware address of %d bytes", len(config.MAC))
	}
	p := &place{mac: config.MAC, mtu: config.MTU}
	for _, text := range config.Addresses {
		address, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, err
		}
		p.addresses = append(p.addresses, address)
	}
	for _, text := range config.Gateways {
		gateway, err := netip.ParseAddr(text)
		if err != nil {
			return nil, err
		}
		p.gateways = append(p.gateways, gateway)
	}
	return p, nil
}

// Package network gives the machine its place in a network, with nothing of the image's.
package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"bandsox.dev/agent/internal/netlink"
	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

const (
	devices = "/sys/class/net"
	conf6   = "/proc/sys/net/ipv6/conf"
)

// Configure makes the machine's network device what the configuration says: hardware address, MTU,
// addresses and routes, IPv4 and IPv6. What it had before is gone. It serves a machine that has
// booted and one that has woken up as a clone: the network is usable when it returns, and
// whoever remembers the old hardware address is told (gratuitous ARP, unsolicited neighbour advertisement).
func Configure(config *wire.NetworkConfig) error {
	mac, addresses, gateways, err := parse(config)
	if err != nil {
		return wire.Fail(wire.CodeInvalid, "%v", err)
	}
	conn, err := netlink.Dial()
	if err != nil {
		return wire.AsFailure(err)
	}
	defer conn.Close()
	d, err := find()
	if err != nil {
		return err
	}
	if err := apply(conn, d, mac, config.MTU, addresses, gateways); err != nil {
		return wire.AsFailure(fmt.Errorf("%s: %w", d.name, err))
	}
	return nil
}

// device is the machine's network device, as it is before it is configured.
type device struct {
	name  string
	index int
	mac   string
	mtu   int
	up    bool
}

// find returns the device of the machine: the only one there is, but for those without hardware. It looks into sysfs: a dump of
// all devices, which tells everything that can be known of each, takes ten times as long on an emulated processor that has never run its code.
func find() (device, error) {
	entries, err := os.ReadDir(devices)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return device{}, wire.AsFailure(err)
	}
	for _, entry := range entries {
		d := device{name: entry.Name()}
		if _, err := os.Stat(d.file("device")); err != nil || d.number("type") != unix.ARPHRD_ETHER {
			continue
		}
		d.index, d.mtu, d.mac = d.number("ifindex"), d.number("mtu"), d.text("address")
		d.up = d.number("flags")&unix.IFF_UP != 0
		return d, nil
	}
	return device{}, wire.Fail(wire.CodeUnsupported, "no network device: the kernel has no driver for it")
}

func (d device) file(name string) string { return filepath.Join(devices, d.name, name) }

func (d device) text(name string) string {
	content, _ := os.ReadFile(d.file(name))
	return strings.TrimSpace(string(content))
}

func (d device) number(name string) int {
	number, _ := strconv.ParseInt(d.text(name), 0, 32) // flags are hexadecimal
	return int(number)
}

// used tells whether the device was configured before. Until then one that is down has nothing that is to be forgotten.
var used atomic.Bool

func apply(conn *netlink.Conn, d device, mac net.HardwareAddr, mtu int, addresses []netip.Prefix, gateways []netip.Addr) error {
	quieten(d.name)
	if used.Swap(true) || d.up {
		if err := forget(conn, d.index); err != nil {
			return err
		}
	}
	for _, address := range addresses {
		if err := conn.AddAddress(d.index, address); err != nil && !isMissingVersion6(address.Addr(), err) {
			return err
		}
	}
	change := netlink.Settings{Up: true}
	if mac.String() != d.mac {
		change.MAC = mac
	}
	if mtu != d.mtu {
		change.MTU = mtu
	}
	if err := conn.Set(d.index, change); err != nil {
		return err
	}
	for _, gateway := range gateways {
		everywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if gateway.Is6() {
			everywhere = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		route := netlink.Route{To: everywhere, Via: gateway, Link: d.index}
		if err := conn.AddRoute(route); err != nil && !isMissingVersion6(gateway, err) {
			return err
		}
	}
	return nil
}

// forget takes the device down, upon which the kernel forgets all routes and neighbours, which may be those of another machine, and
// takes its addresses away.
func forget(conn *netlink.Conn, index int) error {
	if err := conn.Set(index, netlink.Settings{Down: true}); err != nil {
		return err
	}
	old, err := conn.Addresses()
	if err != nil {
		return err
	}
	for _, address := range old {
		if address.Link == index {
			if err := conn.DeleteAddress(index, address.Prefix); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return err
			}
		}
	}
	return nil
}

// quieten keeps the kernel from asking whether somebody has its address and from listening to routers,
// and has it announce itself. A kernel without IPv6 has no such switches.
func quieten(device string) {
	for name, value := range map[string]string{
		"accept_dad": "0", "dad_transmits": "0", "accept_ra": "0", "ndisc_notify": "1", "keep_addr_on_down": "1",
	} {
		_ = os.WriteFile(filepath.Join(conf6, device, name), []byte(value), 0)
	}
	_ = os.WriteFile(filepath.Join("/proc/sys/net/ipv4/conf", device, "arp_notify"), []byte("1"), 0)
}

// isMissingVersion6 tells whether an IPv6 address was refused by a kernel that has no IPv6.
func isMissingVersion6(address netip.Addr, err error) bool {
	if address.Is4() || !(errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EACCES)) {
		return false
	}
	_, missing := os.Stat(conf6)
	return missing != nil
}

func parse(config *wire.NetworkConfig) (mac net.HardwareAddr, addresses []netip.Prefix, gateways []netip.Addr, err error) {
	if len(config.MAC) != 6 {
		return nil, nil, nil, fmt.Errorf("a hardware address of %d bytes", len(config.MAC))
	}
	for _, text := range config.Addresses {
		address, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, nil, nil, err
		}
		addresses = append(addresses, address)
	}
	for _, text := range config.Gateways {
		gateway, err := netip.ParseAddr(text)
		if err != nil {
			return nil, nil, nil, err
		}
		gateways = append(gateways, gateway)
	}
	return config.MAC, addresses, gateways, nil
}

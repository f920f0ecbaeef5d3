// Package network gives the machine its place in a network, with nothing of the image's.
package network

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"bandsox.dev/agent/internal/netlink"
	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

const conf6 = "/proc/sys/net/ipv6/conf"

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
	device, err := find(conn)
	if err != nil {
		return err
	}
	if err := apply(conn, device, mac, config.MTU, addresses, gateways); err != nil {
		return wire.AsFailure(fmt.Errorf("%s: %w", device.Name, err))
	}
	return nil
}

// find returns the device of the machine: the only one there is, but for those without hardware.
func find(conn *netlink.Conn) (netlink.Link, error) {
	links, err := conn.Links()
	if err != nil {
		return netlink.Link{}, wire.AsFailure(err)
	}
	for _, link := range links {
		if _, err := os.Stat(filepath.Join("/sys/class/net", link.Name, "device")); err == nil && link.Kind == unix.ARPHRD_ETHER {
			return link, nil
		}
	}
	return netlink.Link{}, wire.Fail(wire.CodeUnsupported, "no network device: the kernel has no driver for it")
}

func apply(conn *netlink.Conn, device netlink.Link, mac []byte, mtu int, addresses []netip.Prefix, gateways []netip.Addr) error {
	quieten(device.Name)
	// Down and up again: the kernel forgets all routes and neighbours, which may be those of another machine.
	if err := conn.Set(device.Index, netlink.Settings{Down: true}); err != nil {
		return err
	}
	old, err := conn.Addresses()
	if err != nil {
		return err
	}
	for _, address := range old {
		if address.Link == device.Index {
			if err := conn.DeleteAddress(device.Index, address.Prefix); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return err
			}
		}
	}
	change := netlink.Settings{MTU: mtu}
	if !bytes.Equal(mac, device.MAC) {
		change.MAC = mac
	}
	if err := conn.Set(device.Index, change); err != nil {
		return err
	}
	for _, address := range addresses {
		if err := conn.AddAddress(device.Index, address); err != nil && !isMissingVersion6(address.Addr(), err) {
			return err
		}
	}
	if err := conn.Set(device.Index, netlink.Settings{Up: true}); err != nil {
		return err
	}
	for _, gateway := range gateways {
		everywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if gateway.Is6() {
			everywhere = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		route := netlink.Route{To: everywhere, Via: gateway, Link: device.Index}
		if err := conn.AddRoute(route); err != nil && !isMissingVersion6(gateway, err) {
			return err
		}
	}
	return nil
}

// quieten keeps the kernel from asking whether somebody has its address and from listening to routers,
// and has it announce itself. A kernel without IPv6 has no such switches.
func quieten(device string) {
	for name, value := range map[string]string{
		"accept_dad": "0", "dad_transmits": "0", "accept_ra": "0", "router_solicitations": "0", "ndisc_notify": "1", "keep_addr_on_down": "1",
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

func parse(config *wire.NetworkConfig) (mac []byte, addresses []netip.Prefix, gateways []netip.Addr, err error) {
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

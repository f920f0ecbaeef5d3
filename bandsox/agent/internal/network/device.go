package network

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"bandsox.dev/agent/internal/netlink"
	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

const (
	devices = "/sys/class/net"
	conf4   = "/proc/sys/net/ipv4/conf"
	conf6   = "/proc/sys/net/ipv6/conf"
)

// device is the machine's network device, as it was found.
type device struct {
	conn  *netlink.Conn
	name  string
	index int
	mac   net.HardwareAddr
	mtu   int
	up    bool

	gateways []netip.Addr // that it has been given here
}

// open finds the device of the machine: the only one there is, but for those without hardware. It looks into sysfs: a dump of
// all devices, which tells everything that can be known of each, takes ten times as long on an emulated processor that has never run its code.
func open() (*device, error) {
	entries, err := os.ReadDir(devices)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, wire.AsFailure(err)
	}
	for _, entry := range entries {
		d := &device{name: entry.Name()}
		if _, err := os.Stat(d.file("device")); err != nil || d.number("type") != unix.ARPHRD_ETHER {
			continue
		}
		d.index, d.mtu = d.number("ifindex"), d.number("mtu")
		d.mac, _ = net.ParseMAC(d.text("address"))
		d.up = d.number("flags")&unix.IFF_UP != 0
		if d.conn, err = netlink.Dial(); err != nil {
			return nil, wire.AsFailure(err)
		}
		return d, nil
	}
	return nil, wire.Fail(wire.CodeUnsupported, "no network device: the kernel has no driver for it")
}

func (d *device) file(name string) string { return filepath.Join(devices, d.name, name) }

func (d *device) text(name string) string {
	content, _ := os.ReadFile(d.file(name))
	return strings.TrimSpace(string(content))
}

func (d *device) number(name string) int {
	number, _ := strconv.ParseInt(d.text(name), 0, 32) // flags are hexadecimal
	return int(number)
}

// used tells whether the device has been anything here. Until then one that is down has nothing that is to be forgotten.
var used atomic.Bool

// prepare has the device, with nothing of what it was, wait for its place.
func (d *device) prepare() error {
	quieten(d.name)
	if used.Swap(true) || d.up {
		announceItself(d.name)
		return d.forget()
	}
	return nil
}

// forget takes the device down, upon which the kernel forgets all routes and neighbours, which may be those of another machine, and
// takes its addresses away.
func (d *device) forget() error {
	if err := d.conn.Set(d.index, netlink.Settings{Down: true}); err != nil {
		return err
	}
	d.up, d.gateways = false, nil
	old, err := d.conn.Addresses()
	if err != nil {
		return err
	}
	for _, address := range old {
		if address.Link == d.index {
			if err := d.conn.DeleteAddress(d.index, address.Prefix); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return err
			}
		}
	}
	return nil
}

func (d *device) addAddresses(addresses []netip.Prefix) error {
	for _, address := range addresses {
		if err := d.conn.AddAddress(d.index, address); err != nil && !isMissingVersion6(address.Addr(), err) {
			return err
		}
	}
	return nil
}

// addGateways gives the device the ways to everywhere that it does not have.
func (d *device) addGateways(gateways []netip.Addr) error {
	for _, gateway := range gateways {
		if slices.Contains(d.gateways, gateway) {
			continue
		}
		everywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if gateway.Is6() {
			everywhere = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		route := netlink.Route{To: everywhere, Via: gateway, Link: d.index}
		if err := d.conn.AddRoute(route); err != nil && !isMissingVersion6(gateway, err) {
			return err
		}
	}
	d.gateways = gateways
	return nil
}

// quieten keeps the kernel from asking whether somebody has its addresses, from making one, and from listening to routers, and has it tell at
// once which groups it is in. A kernel without IPv6 has no such switches.
func quieten(device string) {
	for name, value := range map[string]string{
		"accept_dad": "0", "dad_transmits": "0", "accept_ra": "0", "addr_gen_mode": "1", "keep_addr_on_down": "1",
		"mldv2_unsolicited_report_interval": "1",
	} {
		_ = os.WriteFile(filepath.Join(conf6, device, name), []byte(value), 0)
	}
}

// announceItself has the kernel tell others when its addresses are new.
func announceItself(device string) {
	_ = os.WriteFile(filepath.Join(conf6, device, "ndisc_notify"), []byte("1"), 0)
	_ = os.WriteFile(filepath.Join(conf4, device, "arp_notify"), []byte("1"), 0)
}

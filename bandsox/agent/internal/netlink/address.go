package netlink

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Address is an address of a device.
type Address struct {
	Link   int
	Prefix netip.Prefix
}

// Addresses lists those of all devices.
func (c *Conn) Addresses() (found []Address, err error) {
	err = c.dump(unix.RTM_GETADDR, make([]byte, unix.SizeofIfAddrmsg), func(body []byte) {
		if len(body) < unix.SizeofIfAddrmsg {
			return
		}
		link, bits := int(binary.NativeEndian.Uint32(body[4:])), int(body[1])
		var local, address []byte
		attributes(body[unix.SizeofIfAddrmsg:], func(kind uint16, data []byte) {
			switch kind {
			case unix.IFA_LOCAL: // the device's own where it has a peer's too
				local = data
			case unix.IFA_ADDRESS:
				address = data
			}
		})
		if local == nil {
			local = address
		}
		if ip, ok := netip.AddrFromSlice(local); ok {
			found = append(found, Address{link, netip.PrefixFrom(ip, bits)})
		}
	})
	return found, err
}

// AddAddress gives a device an address, which is used at once: nobody is asked whether they have it.
func (c *Conn) AddAddress(link int, prefix netip.Prefix) error {
	flags := number(unix.IFA_FLAGS, unix.IFA_F_NODAD|unix.IFA_F_PERMANENT)
	body := join(addressHeader(link, prefix), addressOf(prefix), flags)
	return c.change(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, body)
}

// DeleteAddress takes an address from a device.
func (c *Conn) DeleteAddress(link int, prefix netip.Prefix) error {
	return c.change(unix.RTM_DELADDR, 0, join(addressHeader(link, prefix), addressOf(prefix)))
}

func addressHeader(link int, prefix netip.Prefix) []byte {
	header := make([]byte, unix.SizeofIfAddrmsg)
	header[0], header[1] = family(prefix.Addr()), byte(prefix.Bits())
	binary.NativeEndian.PutUint32(header[4:], uint32(link))
	return header
}

func addressOf(prefix netip.Prefix) []byte {
	ip := prefix.Addr().AsSlice()
	return join(attribute(unix.IFA_LOCAL, ip), attribute(unix.IFA_ADDRESS, ip))
}

// AddNeighbour tells which hardware address has an address, for good.
func (c *Conn) AddNeighbour(link int, address netip.Addr, mac []byte) error {
	header := make([]byte, unix.SizeofNdMsg)
	header[0] = family(address)
	binary.NativeEndian.PutUint32(header[4:], uint32(link))
	binary.NativeEndian.PutUint16(header[8:], unix.NUD_PERMANENT)
	body := join(header, attribute(unix.NDA_DST, address.AsSlice()), attribute(unix.NDA_LLADDR, mac))
	return c.change(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, body)
}

// Route is a way to some addresses.
type Route struct {
	To      netip.Prefix
	Via     netip.Addr // the zero value: they are on the link itself
	Link    int
	OnLink  bool // Via is on the link, whatever addresses that has
	NewOnly bool // refuse (EEXIST) if there is one to just these addresses
	Metric  uint32
}

// AddRoute adds a route.
func (c *Conn) AddRoute(r Route) error {
	header := make([]byte, unix.SizeofRtMsg)
	header[0], header[1] = family(r.To.Addr()), byte(r.To.Bits())
	header[4], header[5], header[7] = unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RTN_UNICAST
	parts := [][]byte{attribute(unix.RTA_DST, r.To.Addr().AsSlice()), number(unix.RTA_OIF, uint32(r.Link))}
	if r.Via.IsValid() {
		parts = append(parts, attribute(unix.RTA_GATEWAY, r.Via.AsSlice()))
	} else if r.To.Addr().Is4() {
		header[6] = unix.RT_SCOPE_LINK
	}
	if r.Metric != 0 {
		parts = append(parts, number(unix.RTA_PRIORITY, r.Metric))
	}
	if r.OnLink {
		binary.NativeEndian.PutUint32(header[8:], unix.RTNH_F_ONLINK)
	}
	flags := unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	if r.NewOnly {
		flags = unix.NLM_F_CREATE | unix.NLM_F_EXCL
	}
	return c.change(unix.RTM_NEWROUTE, flags, append(header, join(parts...)...))
}

// DefaultRoutes lists the devices that lead everywhere, the preferred one first.
func (c *Conn) DefaultRoutes(version6 bool) ([]int, error) {
	header := make([]byte, unix.SizeofRtMsg)
	header[0] = unix.AF_INET
	if version6 {
		header[0] = unix.AF_INET6
	}
	var links []int
	best := ^uint32(0)
	err := c.dump(unix.RTM_GETROUTE, header, func(body []byte) {
		if len(body) < unix.SizeofRtMsg || body[1] != 0 || body[0] != header[0] || body[4] != unix.RT_TABLE_MAIN || body[7] != unix.RTN_UNICAST {
			return
		}
		link, metric := 0, uint32(0)
		attributes(body[unix.SizeofRtMsg:], func(kind uint16, data []byte) {
			switch {
			case len(data) < 4:
			case kind == unix.RTA_OIF:
				link = int(binary.NativeEndian.Uint32(data))
			case kind == unix.RTA_PRIORITY:
				metric = binary.NativeEndian.Uint32(data)
			}
		})
		switch {
		case link == 0: // several next hops: not told apart here
		case metric < best:
			best, links = metric, append([]int{link}, links...)
		default:
			links = append(links, link)
		}
	})
	return links, err
}

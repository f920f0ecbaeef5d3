package netlink

import (
	"encoding/binary"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Link is a network device.
type Link struct {
	Index int
	Name  string
	MAC   []byte
	MTU   int
	Group int
	Kind  uint16 // ARPHRD_*: what it carries
	Up    bool
}

// Links lists the devices of the namespace.
func (c *Conn) Links() (links []Link, err error) {
	err = c.dump(unix.RTM_GETLINK, make([]byte, unix.SizeofIfInfomsg), func(body []byte) {
		if len(body) < unix.SizeofIfInfomsg {
			return
		}
		link := Link{
			Kind:  binary.NativeEndian.Uint16(body[2:]),
			Index: int(int32(binary.NativeEndian.Uint32(body[4:]))),
			Up:    binary.NativeEndian.Uint32(body[8:])&unix.IFF_UP != 0,
		}
		attributes(body[unix.SizeofIfInfomsg:], func(kind uint16, data []byte) {
			switch kind {
			case unix.IFLA_IFNAME:
				link.Name = unix.ByteSliceToString(data)
			case unix.IFLA_ADDRESS:
				link.MAC = append([]byte(nil), data...)
			case unix.IFLA_MTU:
				if len(data) >= 4 {
					link.MTU = int(binary.NativeEndian.Uint32(data))
				}
			case unix.IFLA_GROUP:
				if len(data) >= 4 {
					link.Group = int(binary.NativeEndian.Uint32(data))
				}
			}
		})
		links = append(links, link)
	})
	return links, err
}

// Find returns the device with this name.
func (c *Conn) Find(name string) (Link, error) {
	links, err := c.Links()
	if err != nil {
		return Link{}, err
	}
	for _, link := range links {
		if link.Name == name {
			return link, nil
		}
	}
	return Link{}, unix.ENODEV
}

// Settings change a device; what is zero stays as it is.
type Settings struct {
	MAC   []byte
	MTU   int
	Group int
	Up    bool
	Down  bool
}

// Set changes the device with this index.
func (c *Conn) Set(index int, s Settings) error {
	header := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(header[4:], uint32(index))
	if s.Up || s.Down {
		binary.NativeEndian.PutUint32(header[12:], unix.IFF_UP)
	}
	if s.Up {
		binary.NativeEndian.PutUint32(header[8:], unix.IFF_UP)
	}
	return c.change(unix.RTM_NEWLINK, 0, append(header, s.attributes()...))
}

// SetMAC gives a device its hardware address, and nothing else: of what Set does besides the kernel tells all who may want to know, by code that
// takes an emulated processor that has never run it 4 ms. The device may be up if it can change its address then.
func (c *Conn) SetMAC(name string, mac [6]byte) error {
	var request struct { // struct ifreq
		name    [unix.IFNAMSIZ]byte
		address unix.RawSockaddr
		_       [8]byte
	}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	request.address.Family = unix.ARPHRD_ETHER
	for i, value := range mac {
		request.address.Data[i] = int8(value)
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(c.fd), unix.SIOCSIFHWADDR, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return os.NewSyscallError("the hardware address", errno)
	}
	return nil
}

func (s Settings) attributes() (all []byte) {
	if s.MAC != nil {
		all = append(all, attribute(unix.IFLA_ADDRESS, s.MAC)...)
	}
	if s.MTU != 0 {
		all = append(all, number(unix.IFLA_MTU, uint32(s.MTU))...)
	}
	if s.Group != 0 {
		all = append(all, number(unix.IFLA_GROUP, uint32(s.Group))...)
	}
	return all
}

const vethInfoPeer = 1 // VETH_INFO_PEER (Linux, include/uapi/linux/veth.h)

// AddVeth makes a pair of devices: `name` here, and `peer` in the namespace of the descriptor `namespace`.
func (c *Conn) AddVeth(name string, s Settings, peer string, namespace int) error {
	there := join(make([]byte, unix.SizeofIfInfomsg), text(unix.IFLA_IFNAME, peer), number(unix.IFLA_NET_NS_FD, uint32(namespace)))
	if s.MTU != 0 {
		there = append(there, number(unix.IFLA_MTU, uint32(s.MTU))...)
	}
	info := join(
		text(unix.IFLA_INFO_KIND, "veth"),
		attribute(unix.IFLA_INFO_DATA, attribute(vethInfoPeer, there)),
	)
	body := join(make([]byte, unix.SizeofIfInfomsg), text(unix.IFLA_IFNAME, name), s.attributes(), attribute(unix.IFLA_LINKINFO, info))
	return c.change(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, body)
}

// Delete removes a device.
func (c *Conn) Delete(index int) error {
	header := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(header[4:], uint32(index))
	return c.change(unix.RTM_DELLINK, 0, header)
}

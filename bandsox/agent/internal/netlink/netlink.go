// Package netlink sets up links, addresses, routes and neighbours (rtnetlink(7)) in the network
// namespace that the calling thread was in when it dialled.
//
// It is written here because the libraries for it bring Go's whole net package with them, which
// doubles the agent; what a machine's network needs are seven messages.
package netlink

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Conn is a socket to the kernel. It is used by one goroutine at a time.
type Conn struct {
	fd       int
	sequence uint32
}

// Dial opens a socket to the namespace of this thread.
func Dial() (*Conn, error) { return dial(unix.NETLINK_ROUTE) }

func dial(protocol int) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, os.NewSyscallError("netlink socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("netlink bind", err)
	}
	return &Conn{fd: fd}, nil
}

// Close closes the socket.
func (c *Conn) Close() { unix.Close(c.fd) }

// change sends a message that the kernel confirms or refuses.
func (c *Conn) change(kind uint16, flags int, body []byte) error {
	if err := c.send(kind, unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags, body); err != nil {
		return err
	}
	return c.receive(func(uint16, []byte) {})
}

// dump asks for all objects of a kind, and passes each to visit.
func (c *Conn) dump(kind uint16, body []byte, visit func(body []byte)) error {
	if err := c.send(kind, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, body); err != nil {
		return err
	}
	return c.receive(func(_ uint16, body []byte) { visit(body) })
}

func (c *Conn) send(kind uint16, flags int, body []byte) error {
	c.sequence++
	message := make([]byte, unix.NLMSG_HDRLEN, unix.NLMSG_HDRLEN+len(body))
	binary.NativeEndian.PutUint32(message[0:], uint32(unix.NLMSG_HDRLEN+len(body)))
	binary.NativeEndian.PutUint16(message[4:], kind)
	binary.NativeEndian.PutUint16(message[6:], uint16(flags))
	binary.NativeEndian.PutUint32(message[8:], c.sequence)
	return unix.Sendto(c.fd, append(message, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// receive reads answers to the last request up to its end, which is an error or its absence.
func (c *Conn) receive(visit func(kind uint16, body []byte)) error {
	buffer := make([]byte, 32<<10) // the kernel fills no more at once (netlink_dump)
	for {
		n, _, err := unix.Recvfrom(c.fd, buffer, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("netlink", err)
		}
		for rest := buffer[:n]; len(rest) >= unix.NLMSG_HDRLEN; {
			size := int(binary.NativeEndian.Uint32(rest))
			if size < unix.NLMSG_HDRLEN || size > len(rest) {
				return fmt.Errorf("netlink: a message of %d bytes in %d", size, len(rest))
			}
			kind, sequence := binary.NativeEndian.Uint16(rest[4:]), binary.NativeEndian.Uint32(rest[8:])
			body := rest[unix.NLMSG_HDRLEN:size]
			rest = rest[min(align(size), len(rest)):]
			if sequence != c.sequence {
				continue
			}
			switch kind {
			case unix.NLMSG_DONE:
				return nil
			case unix.NLMSG_ERROR:
				if number := -int32(binary.NativeEndian.Uint32(body)); number != 0 {
					return unix.Errno(number)
				}
				return nil
			default:
				visit(kind, body)
			}
		}
	}
}

func align(n int) int { return (n + 3) &^ 3 }

// attribute is a struct rtattr with its data, padded.
func attribute(kind uint16, data []byte) []byte {
	out := make([]byte, unix.SizeofRtAttr, align(unix.SizeofRtAttr+len(data)))
	binary.NativeEndian.PutUint16(out[0:], uint16(unix.SizeofRtAttr+len(data)))
	binary.NativeEndian.PutUint16(out[2:], kind)
	out = append(out, data...)
	return append(out, make([]byte, align(len(out))-len(out))...)
}

func number(kind uint16, value uint32) []byte {
	return attribute(kind, binary.NativeEndian.AppendUint32(nil, value))
}

func text(kind uint16, value string) []byte { return attribute(kind, append([]byte(value), 0)) }

func join(parts ...[]byte) (all []byte) {
	for _, part := range parts {
		all = append(all, part...)
	}
	return all
}

// attributes passes each attribute of an answer to visit.
func attributes(data []byte, visit func(kind uint16, data []byte)) {
	for len(data) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(data))
		if size < unix.SizeofRtAttr || size > len(data) {
			return
		}
		visit(binary.NativeEndian.Uint16(data[2:]), data[unix.SizeofRtAttr:size])
		data = data[min(align(size), len(data)):]
	}
}

func family(address netip.Addr) byte {
	if address.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

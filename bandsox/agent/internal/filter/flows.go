package filter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// maxFlows is how many open connections that pass the filter by are known at a time; of others the end is not written down.
	maxFlows = 1 << 15

	eventBuffer = 1 << 20

	// Numbers of linux/netfilter/nfnetlink*.h that golang.org/x/sys lacks.
	subsystemConntrack = 1
	subsystemLog       = 4
	groupNew           = 1
	groupDestroy       = 3
	conntrackNew       = 0
	conntrackDelete    = 2
	tupleOrig          = 1
	tupleIP            = 1
	tupleProto         = 2
	ctStatus           = 3
	ctMark             = 8
	countersOrig       = 9
	countersReply      = 10
	counterBytes       = 2
	ctID               = 12
	statusDNAT         = 1 << 5
	logPacket          = 0
	logConfig          = 1
	logCommand         = 1
	logMode            = 2
	logBind            = 1
	logCopy            = 2
	logPayload         = 9
)

// flows writes down what the kernel decides by itself: connections that pass the filter by, and packets that are refused.
type flows struct {
	filter *Filter
	open   map[uint32]Entry // by the kernel's number
}

// watch listens for what the kernel tells; what it returns does so until the socket fails.
func (f *flows) watch() (func() error, error) {
	conntrack, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err == nil {
		err = errors.Join(conntrack.JoinGroup(groupNew), conntrack.JoinGroup(groupDestroy), conntrack.SetReadBuffer(eventBuffer))
	}
	if err != nil {
		return nil, fmt.Errorf("events of connections: %w", err)
	}
	refusals, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err == nil {
		err = errors.Join(refusals.SetReadBuffer(eventBuffer), bindLog(refusals))
	}
	if err != nil {
		return nil, fmt.Errorf("what the kernel refuses: %w", err)
	}
	return func() error {
		failed := make(chan error, 2)
		go func() { failed <- receive(conntrack, f.connection) }()
		go func() { failed <- receive(refusals, f.refusal) }()
		return <-failed
	}, nil
}

// bindLog asks for what rules give to logGroup, with the beginning of each packet.
func bindLog(conn *netlink.Conn) error {
	for _, attribute := range []netlink.Attribute{
		{Type: logCommand, Data: []byte{logBind}},
		{Type: logMode, Data: []byte{0, 0, 0, 128, logCopy, 0}},
	} {
		data, err := netlink.MarshalAttributes([]netlink.Attribute{attribute})
		if err != nil {
			return err
		}
		general := binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0}, logGroup)
		header := netlink.Header{Type: subsystemLog<<8 | logConfig, Flags: netlink.Request | netlink.Acknowledge}
		if _, err := conn.Execute(netlink.Message{Header: header, Data: append(general, data...)}); err != nil {
			return err
		}
	}
	return nil
}

// receive hands on each message without its general header. Those that came too fast are lost.
func receive(conn *netlink.Conn, handle func(kind int, data []byte)) error {
	for {
		messages, err := conn.Receive()
		if errors.Is(err, unix.ENOBUFS) {
			continue
		} else if err != nil {
			return fmt.Errorf("events of the kernel: %w", err)
		}
		for _, message := range messages {
			if len(message.Data) >= 4 {
				handle(int(message.Header.Type), message.Data[4:])
			}
		}
	}
}

// connection takes one event of connection tracking.
func (f *flows) connection(kind int, data []byte) {
	seen, err := readFlow(data)
	if err != nil || seen.mark == 0 || seen.status&statusDNAT != 0 || !slices.Contains(f.filter.place.Guest, seen.from) {
		return // not the guest's, or one that the filter carries
	}
	switch kind {
	case subsystemConntrack<<8 | conntrackNew:
		if _, known := f.open[seen.id]; known || len(f.open) >= maxFlows {
			return
		}
		entry := Entry{Protocol: seen.protocol, Address: seen.to.Addr(), Port: seen.to.Port(), Name: f.filter.nameOf(seen.to.Addr())}
		f.open[seen.id] = f.filter.log.opens(entry)
	case subsystemConntrack<<8 | conntrackDelete:
		if entry, known := f.open[seen.id]; known {
			delete(f.open, seen.id)
			f.filter.log.closes(entry, int64(seen.sent), int64(seen.received))
		}
	}
}

// flow is one connection as the kernel tracks it.
type flow struct {
	id, mark, status uint32
	from             netip.Addr
	to               netip.AddrPort
	protocol         string
	sent, received   uint64
}

func readFlow(data []byte) (flow, error) {
	var seen flow
	var to netip.Addr
	var port uint16
	err := each(data, func(a *netlink.AttributeDecoder) {
		switch a.Type() {
		case tupleOrig:
			a.Nested(func(tuple *netlink.AttributeDecoder) error {
				for tuple.Next() {
					switch tuple.Type() {
					case tupleIP:
						tuple.Nested(func(ip *netlink.AttributeDecoder) error {
							for ip.Next() {
								address, _ := netip.AddrFromSlice(ip.Bytes())
								if ip.Type()%2 == 1 { // sources have the odd numbers
									seen.from = address
								} else {
									to = address
								}
							}
							return nil
						})
					case tupleProto:
						tuple.Nested(func(proto *netlink.AttributeDecoder) error {
							for proto.Next() {
								switch proto.Type() {
								case 1:
									seen.protocol = protocolName(proto.Uint8())
								case 3:
									port = proto.Uint16()
								}
							}
							return nil
						})
					}
				}
				return nil
			})
		case ctStatus:
			seen.status = a.Uint32()
		case ctMark:
			seen.mark = a.Uint32()
		case ctID:
			seen.id = a.Uint32()
		case countersOrig:
			a.Nested(func(counters *netlink.AttributeDecoder) error { return readBytes(counters, &seen.sent) })
		case countersReply:
			a.Nested(func(counters *netlink.AttributeDecoder) error { return readBytes(counters, &seen.received) })
		}
	})
	seen.to = netip.AddrPortFrom(to, port)
	return seen, err
}

func readBytes(counters *netlink.AttributeDecoder, into *uint64) error {
	for counters.Next() {
		if counters.Type() == counterBytes {
			*into = counters.Uint64()
		}
	}
	return nil
}

func each(data []byte, visit func(*netlink.AttributeDecoder)) error {
	attributes, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return err
	}
	attributes.ByteOrder = binary.BigEndian
	for attributes.Next() {
		visit(attributes)
	}
	return attributes.Err()
}

// refusal takes one packet that a rule has refused.
func (f *flows) refusal(kind int, data []byte) {
	if kind != subsystemLog<<8|logPacket {
		return
	}
	_ = each(data, func(a *netlink.AttributeDecoder) {
		if a.Type() != logPayload {
			return
		}
		from, to, protocol, ok := readPacket(a.Bytes())
		if ok && slices.Contains(f.filter.place.Guest, from) {
			f.filter.log.refused(Entry{
				Protocol: protocol, Address: to.Addr(), Port: to.Port(), Name: f.filter.nameOf(to.Addr()), Reason: "no rule allows this address",
			})
		}
	})
}

// readPacket reads where a packet of IPv4 or IPv6 comes from and goes to; the port only where its header comes first.
func readPacket(packet []byte) (from netip.Addr, to netip.AddrPort, protocol string, ok bool) {
	var number byte
	var address netip.Addr
	switch {
	case len(packet) >= 20 && packet[0]>>4 == 4:
		from, address, number = netip.AddrFrom4([4]byte(packet[12:16])), netip.AddrFrom4([4]byte(packet[16:20])), packet[9]
		packet = packet[min(len(packet), int(packet[0]&15)*4):]
	case len(packet) >= 40 && packet[0]>>4 == 6:
		from, address, number = netip.AddrFrom16([16]byte(packet[8:24])), netip.AddrFrom16([16]byte(packet[24:40])), packet[6]
		packet = packet[40:]
	default:
		return from, to, "", false
	}
	port := uint16(0)
	if (number == unix.IPPROTO_TCP || number == unix.IPPROTO_UDP) && len(packet) >= 4 {
		port = binary.BigEndian.Uint16(packet[2:4])
	}
	return from, netip.AddrPortFrom(address, port), protocolName(number), true
}

func protocolName(number byte) string {
	switch number {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return "icmp"
	}
	return fmt.Sprint(number)
}

package filter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Limits is how much of the network a machine may use; 0 is no limit.
type Limits struct {
	Connections int    `json:"connections"` // at a time
	Upload      uint64 `json:"upload"`      // bytes a second, headers included
	Download    uint64 `json:"download"`
}

// uplink is what the way out is called in the namespace (internal/keeper).
const uplink = "uplink"

const (
	// smallestBurst is what may be sent at once: a packet of the largest size that there is, and one more.
	smallestBurst = 2 << 16
	// longestQueue is for how many seconds packets may wait.
	longestQueue = 0.1

	// Numbers of linux/pkt_sched.h and linux/rtnetlink.h that golang.org/x/sys lacks.
	tcaKind      = 1
	tcaOptions   = 2
	tbfParms     = 1
	tbfRate64    = 4
	tbfBurst     = 6
	linkEthernet = 1
	root         = 0xffffffff
)

// limit refuses new connections beyond the limit. Those that the filter carries are counted by it.
func (l Limits) limit() []string {
	if l.Connections == 0 {
		return nil
	}
	return []string{fmt.Sprintf("ct count over %d jump refuse", l.Connections)}
}

// shape limits what goes out of the two devices: to the machine, and to the host.
func (l Limits) shape(tap string) error {
	return errors.Join(limitRate(tap, l.Download), limitRate(uplink, l.Upload))
}

// limitRate gives a device a token bucket (tc-tbf(8)), or takes it away.
func limitRate(device string, rate uint64) error {
	link, err := net.InterfaceByName(device)
	if err != nil {
		return fmt.Errorf("%s: %w", device, err)
	}
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	where := make([]byte, 20) // struct tcmsg: family, index, handle, parent, info
	binary.NativeEndian.PutUint32(where[4:], uint32(link.Index))
	binary.NativeEndian.PutUint32(where[12:], root)
	message := netlink.Message{Header: netlink.Header{Type: unix.RTM_DELQDISC, Flags: netlink.Request | netlink.Acknowledge}, Data: where}
	if rate > 0 {
		options, err := bucket(rate)
		if err != nil {
			return err
		}
		message.Header.Type, message.Header.Flags = unix.RTM_NEWQDISC, message.Header.Flags|netlink.Create|netlink.Replace
		message.Data = append(where, options...)
	}
	_, err = conn.Execute(message)
	if rate == 0 && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL)) { // it has none
		return nil
	}
	return wrap("the limit of "+device, err)
}

func bucket(rate uint64) ([]byte, error) {
	burst := uint32(min(max(rate/100, smallestBurst), math.MaxInt32))
	queue := uint32(min(float64(burst)+float64(rate)*longestQueue, math.MaxInt32))
	parameters := make([]byte, 36) // struct tc_tbf_qopt: two struct tc_ratespec, limit, buffer, mtu
	parameters[1] = linkEthernet
	binary.NativeEndian.PutUint32(parameters[8:], uint32(min(rate, math.MaxUint32)))
	binary.NativeEndian.PutUint32(parameters[24:], queue)
	options, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: tbfParms, Data: parameters},
		{Type: tbfRate64, Data: binary.NativeEndian.AppendUint64(nil, rate)},
		{Type: tbfBurst, Data: binary.NativeEndian.AppendUint32(nil, burst)},
	})
	if err != nil {
		return nil, err
	}
	return netlink.MarshalAttributes([]netlink.Attribute{
		{Type: tcaKind, Data: []byte("tbf\x00")},
		{Type: tcaOptions | netlink.Nested, Data: options},
	})
}

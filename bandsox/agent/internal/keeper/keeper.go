// Package keeper makes the network of one machine and keeps it until the machine's VMM has ended.
//
// The keeper is the first process of a process namespace, in the host's network namespace. One of its
// threads has gone into a network namespace of its own to set that up: TAP device, addresses, rules. Nothing has
// a name outside: when keeper and VMM are gone, the kernel removes namespace, devices and rules.
package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

const (
	control = 0 // the descriptor of the socket to the library
	largest = 128 << 10
)

// Config is what the library asks for.
type Config struct {
	TAP       TAP      `json:"tap"`
	Guest     Guest    `json:"guest"`
	Rules     string   `json:"rules"` // nftables, for the namespace; the sets host4, host6, resolvers4 and resolvers6 get their members
	Nft       string   `json:"nft"`
	Pasta     []string `json:"pasta"` // its command line, but for the namespace; empty: the uplink is a veth pair
	Veth      Veth     `json:"veth"`
	HostRules string   `json:"host_rules"` // nftables, for the host, where the uplink is a veth pair
	Filter    Filter   `json:"filter"`     // the program that decides what gets through
	CNI       CNI      `json:"cni"`        // in place of pasta and veth pair

	Resolvers []netip.Addr `json:"resolvers"` // name servers
}

// TAP is the device of which the VMM has the other end.
type TAP struct {
	Name      string   `json:"name"`
	MAC       string   `json:"mac"`
	MTU       int      `json:"mtu"` // the uplink's when 0
	Addresses []string `json:"addresses"`
	Owner     *int     `json:"owner"` // a user who opens it by its name; absent: the library gets it as a descriptor
}

// Guest is the machine as it is known in the namespace.
type Guest struct {
	MAC       string   `json:"mac"`
	Addresses []string `json:"addresses"`
}

// Veth is the pair of devices between the host and the namespace.
type Veth struct {
	Name  string   `json:"name"`
	Group int      `json:"group"`
	Host  []string `json:"host"` // addresses of the host's end
	Inner []string `json:"inner"`
}

// Filter is the program that runs in the namespace.
type Filter struct {
	Program string          `json:"program"`
	Config  json.RawMessage `json:"config"`
	Roots   string          `json:"roots"` // a file of the authorities that it trusts, which it may not be able to read; empty: the host's
	Now     bool            `json:"now"`   // start it at once, and not only when somebody has a command for it
}

// Reply is what has come of it. There are two: with the first go the TAP device (unless it has an owner) and the namespace, in which a VMM
// can be started; after the second, packets get through. An error is the last reply.
type Reply struct {
	Error     string `json:"error,omitempty"`
	Collision bool   `json:"collision,omitempty"` // somebody else has these addresses
	MTU       int    `json:"mtu"`
	IPv6      bool   `json:"ipv6"` // the host reaches the world over IPv6 too

	Addresses []string     `json:"addresses,omitempty"` // of a CNI network, at which others reach the machine
	Resolvers []netip.Addr `json:"resolvers,omitempty"` // that it has: those that were named, or a CNI network's
	Search    []string     `json:"search,omitempty"`    // as CNI's plugins say it
	Options   []string     `json:"options,omitempty"`
}

var errCollision = errors.New("the addresses are in use on this host")

// Keep makes the network that is asked for on the control socket, and returns when it is not needed any more.
func Keep() error {
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(50)
	signal.Ignore(unix.SIGHUP, unix.SIGINT) // not SIGPIPE: an old pasta does not start where it is ignored
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil { // of the filter too: secrets do not come into files
		return os.NewSyscallError("setrlimit", err)
	}
	config, err := receiveConfig()
	if err != nil {
		return err
	}
	made, err := build(config)
	if err != nil {
		return send(Reply{Error: err.Error(), Collision: errors.Is(err, errCollision)})
	}
	defer made.takeDown(config) // now, not when the kernel gets round to the namespace
	if err := send(made.reply, made.handed...); err != nil {
		return err
	}
	for _, descriptor := range made.handed {
		unix.Close(descriptor)
	}
	if err := made.finish(config); err != nil {
		err = send(Reply{Error: err.Error()})
		awaitClose() // who closes with a word unread takes its own back
		return err
	}
	if err := send(made.reply); err != nil {
		return err
	}
	machine, err := receiveMachine()
	if err != nil {
		return nil // the library is gone, and with it the machine that it wanted to start
	}
	ended := make(chan error, 3)
	go func() { ended <- awaitEnd(machine) }()
	go func() { ended <- made.watch(config) }()
	go func() { ended <- made.keepFilter(config) }()
	return <-ended
}

func receiveConfig() (*Config, error) {
	buffer := make([]byte, largest)
	n, _, err := unix.Recvfrom(control, buffer, 0)
	if err != nil {
		return nil, os.NewSyscallError("receiving the configuration", err)
	}
	config := new(Config)
	if err := json.Unmarshal(buffer[:n], config); err != nil {
		return nil, fmt.Errorf("the configuration: %w", err)
	}
	return config, nil
}

func send(reply Reply, descriptors ...int) error {
	message, err := json.Marshal(reply)
	if err != nil {
		return err
	}
	var rights []byte
	if len(descriptors) > 0 {
		rights = unix.UnixRights(descriptors...)
	}
	return os.NewSyscallError("replying", unix.Sendmsg(control, message, rights, nil, unix.MSG_NOSIGNAL))
}

// awaitClose returns when the library has let go of the network.
func awaitClose() {
	for word := make([]byte, 16); ; {
		n, _, err := unix.Recvfrom(control, word, 0)
		if err != unix.EINTR && (err != nil || n == 0) {
			return
		}
	}
}

// receiveMachine waits for a pidfd of the VMM.
func receiveMachine() (int, error) {
	buffer, rights := make([]byte, 16), make([]byte, unix.CmsgSpace(4))
	n, length, _, _, err := unix.Recvmsg(control, buffer, rights, unix.MSG_CMSG_CLOEXEC)
	if err != nil || n == 0 {
		return -1, errors.New("nobody is there any more")
	}
	messages, err := unix.ParseSocketControlMessage(rights[:length])
	if err != nil || len(messages) != 1 {
		return -1, errors.New("no machine was named")
	}
	descriptors, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(descriptors) != 1 {
		return -1, errors.New("no machine was named")
	}
	unix.Close(control)
	return descriptors[0], nil
}

func awaitEnd(pidfd int) error {
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, -1)
		if err != unix.EINTR {
			return err
		}
	}
}

package keeper

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"

	"bandsox.dev/agent/internal/netlink"

	"golang.org/x/sys/unix"
)

// uplink is what the way out is called in the namespace.
const uplink = "uplink"

// loopback has this index in every namespace.
const loopback = 1

// network is what was made.
type network struct {
	reply     Reply
	handed    []int // for the library: the namespace, and the TAP device
	namespace int
	tasks     chan func() // for the thread in the namespace
	host      []netip.Addr
	resolvers []netip.Addr
	filter    filterProcess
	attached  bool     // to a CNI network
	hostLock  *os.File // held until the host has a pair of devices, and the rules for it
}

// inside runs a function on the thread that is in the namespace.
func (n *network) inside(task func() error) error {
	done := make(chan error)
	n.tasks <- func() { done <- task() }
	return <-done
}

// build makes what a VMM needs to be started: the namespace with its TAP device, and whatever claims the machine's addresses. Nothing is
// forwarded there before finish has come to its end.
func build(config *Config) (*network, error) {
	host, err := look()
	if err != nil {
		return nil, err
	}
	n := &network{
		reply: Reply{MTU: host.mtu, IPv6: host.ipv6}, tasks: make(chan func()), host: host.addresses, resolvers: config.Resolvers,
	}
	if len(config.Pasta) > 0 {
		n.reply.MTU = config.TAP.MTU
	}
	if err := n.enter(); err != nil {
		return nil, fmt.Errorf("a network namespace: %w", err)
	}
	if err := n.inside(func() error { return n.furnish(config) }); err != nil {
		return nil, err
	}
	if err := n.claim(config); err != nil {
		n.takeDown(config)
		return nil, err
	}
	n.reply.Resolvers = n.resolvers
	return n, nil
}

// finish makes the rest while the VMM is being started: rules, uplink and filter, side by side. What fails leaves a network that lets
// nothing through.
func (n *network) finish(config *Config) error {
	made := make(chan error)
	go func() { made <- n.makeUplink(config) }()
	uplinked := sync.OnceValue(func() error { return <-made })
	defer uplinked() // whoever takes the network down finds all of it there
	rules := config.Rules + elements("host", n.host) + elements("resolvers", n.resolvers)
	if config.Filter.Program != "" {
		if err := n.filter.listen(); err != nil {
			return fmt.Errorf("the filter's socket: %w", err)
		}
	}
	var err error
	if config.Filter.Now {
		err = n.startFilter(config, rules, uplinked)
	} else if err = n.inside(func() error { return applyRules(config.Nft, rules) }); err != nil {
		err = fmt.Errorf("the namespace's rules: %w", err)
	}
	if err = errors.Join(err, uplinked()); err != nil {
		return err
	}
	return n.inside(func() error { return forward("1") })
}

// takeDown undoes what outlives the namespace, or would for a while.
func (n *network) takeDown(config *Config) {
	n.detachCNI(config)
	n.cut()
	n.leaveHost(config)
	_ = os.Remove(filterSocket) // what a keeper that was killed leaves, by which the library knows it
}

// claim makes what of the uplink tells whether the machine can have its addresses, and which others.
func (n *network) claim(config *Config) error {
	switch {
	case config.CNI.Program != "":
		return n.attachCNI(config)
	case len(config.Pasta) == 0:
		return n.addVeth(config)
	}
	return nil
}

// hostNetwork is what has to be known of the host's.
type hostNetwork struct {
	mtu       int
	ipv6      bool
	addresses []netip.Addr
}

func look() (*hostNetwork, error) {
	conn, err := netlink.Dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	found := &hostNetwork{mtu: 1500}
	addresses, err := conn.Addresses()
	if err != nil {
		return nil, err
	}
	for _, address := range addresses {
		found.addresses = append(found.addresses, address.Prefix.Addr())
	}
	links, err := conn.Links()
	if err != nil {
		return nil, err
	}
	for _, version6 := range []bool{false, true} {
		routes, err := conn.DefaultRoutes(version6)
		if err != nil || len(routes) == 0 {
			continue
		}
		found.ipv6 = found.ipv6 || version6
		for _, link := range links {
			if link.Index == routes[0] {
				found.mtu = min(found.mtu, link.MTU)
			}
		}
	}
	return found, nil
}

// enter starts the thread that is in the namespace. It is never given back to other goroutines.
func (n *network) enter() error {
	entered := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			n.namespace, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		entered <- err
		for task := range n.tasks {
			task()
		}
	}()
	return <-entered
}

// furnish makes what is inside the namespace but for rules and uplink.
func (n *network) furnish(config *Config) error {
	tap, err := openTAP(config.TAP)
	if err != nil {
		return err
	}
	space, err := unix.FcntlInt(uintptr(n.namespace), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	n.handed = append(n.handed, space)
	if config.TAP.Owner == nil {
		n.handed = append(n.handed, tap)
	} else {
		unix.Close(tap) // it stays, and its owner opens it by its name
	}
	if err := setSwitches(config.TAP.Name); err != nil {
		return err
	}
	conn, err := netlink.Dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.Set(loopback, netlink.Settings{Up: true}); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	if err := configureTAP(conn, config, n.reply.MTU); err != nil {
		return fmt.Errorf("the TAP device: %w", err)
	}
	return nil
}

// openTAP makes the TAP device and returns a descriptor of it.
func openTAP(config TAP) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("/dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(config.Name)
	if err != nil {
		return -1, err
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return -1, fmt.Errorf("the TAP device: %w", err)
	}
	if config.Owner != nil {
		if err := unix.IoctlSetInt(fd, unix.TUNSETOWNER, *config.Owner); err != nil {
			return -1, fmt.Errorf("the TAP device's owner: %w", err)
		}
		if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
			return -1, fmt.Errorf("the TAP device: %w", err)
		}
	}
	return fd, nil
}

// setSwitches has the namespace forward nothing yet, and ask nobody whether its addresses are free.
func setSwitches(tap string) error {
	if err := forward("0"); err != nil { // a new namespace may have it from the host
		return err
	}
	for _, device := range []string{"all", "default", tap} {
		for _, name := range []string{"accept_dad", "dad_transmits", "accept_ra"} {
			if err := setSwitch("ipv6/conf/"+device+"/"+name, "0"); err != nil && !errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
				return err
			}
		}
	}
	return nil
}

// forward makes the namespace a router ("1") or none ("0"), of the devices that it has and of those that it gets.
func forward(value string) error {
	if err := setSwitch("ipv4/ip_forward", value); err != nil {
		return err
	}
	if err := setSwitch("ipv6/conf/all/forwarding", value); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func setSwitch(name, value string) error {
	return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0)
}

func configureTAP(conn *netlink.Conn, config *Config, mtu int) error {
	tap, err := conn.Find(config.TAP.Name)
	if err != nil {
		return err
	}
	mac, err := net.ParseMAC(config.TAP.MAC)
	if err != nil {
		return err
	}
	if err := conn.Set(tap.Index, netlink.Settings{MAC: mac, MTU: mtu}); err != nil {
		return err
	}
	if err := conn.Set(tap.Index, netlink.Settings{Up: true}); err != nil {
		return err
	}
	if err := addAddresses(conn, tap.Index, config.TAP.Addresses); err != nil {
		return err
	}
	guest, err := net.ParseMAC(config.Guest.MAC)
	if err != nil {
		return err
	}
	for _, text := range config.Guest.Addresses {
		address, err := netip.ParseAddr(text)
		if err != nil {
			return err
		}
		if err := conn.AddNeighbour(tap.Index, address, guest); err != nil && !noVersion6(address, err) {
			return err
		}
	}
	return nil
}

func addAddresses(conn *netlink.Conn, link int, prefixes []string) error {
	for _, text := range prefixes {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return err
		}
		if err := conn.AddAddress(link, prefix); err != nil && !noVersion6(prefix.Addr(), err) {
			return fmt.Errorf("the address %s: %w", prefix, err)
		}
	}
	return nil
}

// noVersion6 tells whether IPv6 was refused by a kernel that has none.
func noVersion6(address netip.Addr, err error) bool {
	_, missing := os.Stat("/proc/sys/net/ipv6")
	return address.Is6() && missing != nil && err != nil
}

// elements puts addresses into the two sets that the rules have for them, by their version.
func elements(sets string, addresses []netip.Addr) string {
	var of4, of6 []string
	for _, address := range addresses {
		switch {
		case address.IsLoopback():
		case address.Is4():
			of4 = append(of4, address.String())
		default:
			of6 = append(of6, address.WithZone("").String())
		}
	}
	text := ""
	for version, members := range map[string][]string{"4": of4, "6": of6} {
		if len(members) > 0 {
			text += "add element inet bandsox " + sets + version + " { " + strings.Join(members, ", ") + " }\n"
		}
	}
	return text
}

// applyRules gives rules to nft(8), which applies all of them or none.
func applyRules(nft, rules string) error {
	command := exec.Command(nft, "-f", "-")
	command.Stdin = strings.NewReader(rules)
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, strings.TrimSpace(string(output)))
	}
	return nil
}

package keeper

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"bandsox.dev/agent/internal/netlink"

	"golang.org/x/sys/unix"
)

// An uplink that has lived for less than leastLife was started in vain, and after mostInVain of those in a row no other is.
const (
	leastLife  = time.Second
	mostInVain = 3
)

var (
	everywhere4 = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	everywhere6 = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
)

// makeUplink makes what claim has left: it starts pasta, or makes the host ready for a pair of devices.
func (n *network) makeUplink(config *Config) error {
	switch {
	case len(config.Pasta) > 0:
		return n.startPasta(config)
	case config.CNI.Program != "": // its plugins have done what it takes
		return nil
	}
	defer n.hostLock.Close()
	if err := forwardOnHost(n.reply.IPv6); err != nil {
		return err
	}
	if err := applyRules(config.Nft, config.HostRules); err != nil {
		return fmt.Errorf("the host's rules: %w", err)
	}
	return nil
}

// addVeth connects the namespace with the host by a pair of devices. The route to the guest is the claim to its address:
// the kernel lets nobody else have it until the pair is gone, and removes it with the pair.
func (n *network) addVeth(config *Config) error {
	var err error
	if n.hostLock, err = lockHost(unix.LOCK_SH); err != nil {
		return fmt.Errorf("locking the host's rules: %w", err)
	}
	conn, err := netlink.Dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	settings := netlink.Settings{Group: config.Veth.Group, MTU: n.reply.MTU}
	if err := removeStale(conn, config.Veth.Name); err != nil {
		return err
	}
	if err := conn.AddVeth(config.Veth.Name, settings, uplink, n.namespace); err != nil {
		return fmt.Errorf("the pair of devices %s: %w", config.Veth.Name, err)
	}
	if err := n.inside(func() error { return connectInside(config) }); err != nil {
		return err
	}
	here, err := conn.Find(config.Veth.Name)
	if err != nil {
		return err
	}
	if err := conn.Set(here.Index, netlink.Settings{Up: true}); err != nil {
		return err
	}
	if err := addAddresses(conn, here.Index, config.Veth.Host); err != nil {
		return err
	}
	if err := addRoutes(conn, here.Index, config.Guest.Addresses, config.Veth.Inner); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return errCollision
		}
		return fmt.Errorf("the route to the guest: %w", err)
	}
	return nil
}

// removeStale removes the pair that the machine had before, where the kernel has not got round to it yet: the namespace of a keeper
// that was killed goes a moment after it.
func removeStale(conn *netlink.Conn, name string) error {
	old, err := conn.Find(name)
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err == nil {
		err = conn.Delete(old.Index)
	}
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// addRoutes leads to the guest's addresses by the namespace's.
func addRoutes(conn *netlink.Conn, link int, guest, inner []string) error {
	for _, text := range guest {
		to, err := netip.ParseAddr(text)
		if err != nil {
			return err
		}
		via, err := ofSameVersion(to, inner)
		if err != nil {
			return err
		}
		route := netlink.Route{To: netip.PrefixFrom(to, to.BitLen()), Via: via, Link: link, OnLink: true, NewOnly: true}
		if err := conn.AddRoute(route); err != nil && !noVersion6(to, err) {
			return err
		}
	}
	return nil
}

// ofSameVersion returns the one of the prefixes' addresses that has the same version of IP.
func ofSameVersion(address netip.Addr, prefixes []string) (netip.Addr, error) {
	for _, text := range prefixes {
		prefix, err := netip.ParsePrefix(text)
		if err == nil && prefix.Addr().Is4() == address.Is4() {
			return prefix.Addr(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no next hop for %s", address)
}

// connectInside gives the inner end its addresses, and leads everywhere by the outer one.
func connectInside(config *Config) error {
	conn, err := netlink.Dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	link, err := conn.Find(uplink)
	if err != nil {
		return err
	}
	if err := conn.Set(link.Index, netlink.Settings{Up: true}); err != nil {
		return err
	}
	if err := addAddresses(conn, link.Index, config.Veth.Inner); err != nil {
		return err
	}
	for _, text := range config.Veth.Host {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return err
		}
		route := netlink.Route{To: everywhere4, Via: prefix.Addr(), Link: link.Index, OnLink: true}
		if prefix.Addr().Is6() {
			route.To = everywhere6
		}
		if err := conn.AddRoute(route); err != nil && !noVersion6(prefix.Addr(), err) {
			return fmt.Errorf("the default route: %w", err)
		}
	}
	return nil
}

// forwardOnHost makes the host a router, which a veth pair needs.
func forwardOnHost(version6 bool) error {
	switches := []string{"/proc/sys/net/ipv4/ip_forward"}
	if version6 {
		switches = append(switches, "/proc/sys/net/ipv6/conf/all/forwarding")
	}
	for _, path := range switches {
		value, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(value)) == "0" {
			if err := os.WriteFile(path, []byte("1"), 0); err != nil {
				return fmt.Errorf("making this host forward packets: %w", err)
			}
		}
	}
	return nil
}

// startPasta starts pasta(1) beside the namespace. It goes into the background, as a child of this process, when it works.
func (n *network) startPasta(config *Config) error {
	path, err := n.name()
	if err != nil {
		return fmt.Errorf("naming the namespace: %w", err)
	}
	arguments := append(config.Pasta[1:len(config.Pasta):len(config.Pasta)], "--netns", path)
	command := exec.Command(config.Pasta[0], arguments...)
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("pasta: %w: %s", err, strings.TrimSpace(string(output)))
	}
	return nil
}

// name mounts the namespace on a file in the machine's directory, which only this process and its children see: pasta gives up
// the right to look at other processes' descriptors before it opens the namespace.
func (n *network) name() (string, error) {
	directory, err := os.Getwd()
	if err != nil {
		return "", err
	}
	path := filepath.Join(directory, "netns")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return "", err
	}
	defer file.Close()
	var status unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &status); err != nil || status.Type == unix.NSFS_MAGIC {
		return path, err // it is mounted, and this is another pasta
	}
	return path, unix.Mount(fmt.Sprintf("/proc/self/fd/%d", n.namespace), path, "", unix.MS_BIND, "")
}

// cut takes the way out from a machine that goes on.
func (n *network) cut() {
	_ = n.inside(func() error {
		conn, err := netlink.Dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		link, err := conn.Find(uplink)
		if err != nil {
			return err
		}
		return conn.Delete(link.Index)
	})
}

// watch reaps what has ended: a pasta is followed by another one.
func (n *network) watch(config *Config) error {
	started, inVain := time.Now(), 0
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR:
		case err == unix.ECHILD:
			select {} // nothing to start again: a veth pair
		case err != nil:
			return os.NewSyscallError("wait4", err)
		case n.filter.is(pid): // keepFilter sees it too
		case len(config.Pasta) > 0:
			fmt.Fprintf(os.Stderr, "bandsox-network: pasta has ended (%v)\n", status)
			if time.Since(started) >= leastLife {
				inVain = 0
			} else if inVain++; inVain == mostInVain {
				return errors.New("pasta ends as soon as it is started: the machine has no network any more")
			}
			started = time.Now()
			if err := n.startPasta(config); err != nil {
				return err
			}
			n.filter.uplinkChanged()
		}
	}
}

package keeper

import (
	"errors"
	"fmt"
	"os"

	"bandsox.dev/agent/internal/netlink"

	"golang.org/x/sys/unix"
)

// table has the host's rules.
const table = "bandsox"

// lockHost locks the network namespace that this thread is in: every keeper of a host with a pair of devices holds it, with others, from
// before its pair is there until the host's rules are in force, and who removes the rules holds it alone. The kernel lets go of
// it for whoever is killed. Nobody else locks that file.
func lockHost(how int) (*os.File, error) {
	file, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(file.Fd()), how)
		if err == nil {
			return file, nil
		}
		if err != unix.EINTR {
			file.Close()
			return nil, err
		}
	}
}

// sweepHost removes the host's rules if this was the last pair of devices. Somebody who is making one keeps them.
func sweepHost(nft string, group int) error {
	lock, err := lockHost(unix.LOCK_EX | unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	} else if err != nil {
		return fmt.Errorf("locking the host's rules: %w", err)
	}
	defer lock.Close()
	conn, err := netlink.Dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	links, err := conn.Links()
	if err != nil {
		return err
	}
	for _, link := range links {
		if link.Group == group {
			return nil
		}
	}
	if there, err := netlink.HasTable(table); err != nil || !there {
		return err
	}
	if err := applyRules(nft, "delete table inet "+table+"\n"); err != nil && !errors.Is(err, unix.ECHILD) { // watch may have reaped it
		return fmt.Errorf("the host's rules: %w", err)
	}
	return nil
}

// Sweep removes what keepers that were killed have left on the host: their ends of pairs, of which the names are given, and the host's rules
// if that were the last.
func Sweep(nft string, group int, names []string) error {
	conn, err := netlink.Dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, name := range names {
		if err := removeStale(conn, name); err != nil {
			return fmt.Errorf("the pair of devices %s: %w", name, err)
		}
	}
	return sweepHost(nft, group)
}

// leaveHost takes with the last pair of devices what the host had for all of them.
func (n *network) leaveHost(config *Config) {
	if n.hostLock == nil { // it had none
		return
	}
	n.hostLock.Close()
	if err := sweepHost(config.Nft, config.Veth.Group); err != nil {
		fmt.Fprintln(os.Stderr, "bandsox-network:", err)
	}
}

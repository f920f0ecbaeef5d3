package keeper

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"bandsox.dev/agent/internal/netlink"

	"golang.org/x/sys/unix"
)

// CNI is the network that the namespace is attached to in place of an uplink of the keeper's own (cmd/bandsox-cni).
type CNI struct {
	Program string         `json:"program"` // empty: there is none
	Request map[string]any `json:"request"`
	DNS     bool           `json:"dns"` // take its name servers, if it has some, and not those that the library names
}

// attachCNI has the namespace attached, and takes over what has come of it.
func (n *network) attachCNI(config *Config) error {
	config.CNI.Request["namespace"] = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.namespace)
	answer, err := config.CNI.run("attach")
	if err != nil {
		return err
	}
	n.attached = true
	var result struct {
		Addresses []string     `json:"addresses"`
		Servers   []netip.Addr `json:"servers"`
		Search    []string     `json:"search"`
		Options   []string     `json:"options"`
	}
	if err := json.Unmarshal(answer, &result); err != nil {
		return fmt.Errorf("the CNI network: %w", err)
	}
	if config.CNI.DNS && len(result.Servers) > 0 {
		n.resolvers = result.Servers
	}
	if config.CNI.DNS {
		n.reply.Search, n.reply.Options = result.Search, result.Options
	}
	n.reply.Addresses, n.reply.IPv6 = result.Addresses, false
	for _, address := range result.Addresses {
		n.reply.IPv6 = n.reply.IPv6 || strings.Contains(address, ":")
	}
	if err := n.inside(func() error { return n.fitMTU(config.TAP.Name) }); err != nil {
		return fmt.Errorf("the CNI network's device: %w", err)
	}
	now, err := look() // the plugins have given the host more addresses
	if err != nil {
		return err
	}
	n.host = now.addresses
	return nil
}

// fitMTU gives the TAP device the MTU that the plugins have given the uplink.
func (n *network) fitMTU(tap string) error {
	conn, err := netlink.Dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	out, err := conn.Find(uplink)
	if err != nil {
		return err
	}
	in, err := conn.Find(tap)
	if err != nil {
		return err
	}
	n.reply.MTU = out.MTU
	return conn.Set(in.Index, netlink.Settings{MTU: out.MTU})
}

// detachCNI undoes it. What fails is kept, and tried again when the library cleans up.
func (n *network) detachCNI(config *Config) {
	if !n.attached {
		return
	}
	if _, err := config.CNI.run("detach"); err != nil {
		fmt.Fprintln(os.Stderr, "bandsox-network:", err)
	}
}

// run runs the program. It has done its work once its output ends; who has reaped it does not matter.
func (c *CNI) run(verb string) ([]byte, error) {
	request, err := json.Marshal(c.Request)
	if err != nil {
		return nil, err
	}
	var said, complaint bytes.Buffer
	command := exec.Command(c.Program, verb)
	command.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS} // for a /proc of this process namespace
	command.Stdin, command.Stdout, command.Stderr, command.Env = bytes.NewReader(request), &said, &complaint, []string{}
	err = command.Run()
	if text := strings.TrimSpace(complaint.String()); text != "" {
		return nil, errors.New(text)
	}
	var failed *exec.ExitError
	if errors.As(err, &failed) || verb == "attach" && err != nil {
		return nil, fmt.Errorf("%s: %w", c.Program, err)
	}
	return said.Bytes(), nil
}

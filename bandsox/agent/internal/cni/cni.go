// Package cni attaches a machine's network namespace to a network that a CNI configuration describes, and detaches it (Container Network
// Interface Specification, 1.0.0). The work is libcni's, and that of the plugins, which are programs of the host's.
package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

const (
	// patience is how long the plugins of a network may take together.
	patience = 60 * time.Second

	// longestWord is the length of the longest name that there is, as text.
	longestWord = 253

	// searchPath is where plugins find iptables(8) and its like.
	searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

	// record says what is attached, or about to be: with it the attachment can be undone by whoever comes after a crash.
	record = "attachment.json"
)

// Request is what is asked for, as JSON on standard input.
type Request struct {
	Network   string   `json:"network"`   // the configuration's name
	Configs   []string `json:"configs"`   // directories with configurations
	Plugins   []string `json:"plugins"`   // directories with plugins
	Container string   `json:"container"` // the machine's id
	Interface string   `json:"interface"` // the device's name in the namespace
	Namespace string   `json:"namespace"` // a path to it; "" when it is gone
	State     string   `json:"state"`     // the directory in which the attachment is kept
}

// Result is what has come of it, as JSON on standard output.
type Result struct {
	Addresses []string `json:"addresses"` // the interface's, with prefix lengths
	Servers   []string `json:"servers"`   // name servers, and for names the domains to look in, and options, as in resolv.conf(5)
	Search    []string `json:"search"`
	Options   []string `json:"options"`
}

// attachment is what is kept of an attachment: the configuration as it was.
type attachment struct {
	Plugins   []string        `json:"plugins"`
	Container string          `json:"container"`
	Interface string          `json:"interface"`
	Config    json.RawMessage `json:"config"`
}

// Attach runs ADD of the network's plugins and then CHECK. Whatever fails, nothing stays attached.
func Attach(r *Request) (*Result, error) {
	if err := os.Setenv("PATH", searchPath); err != nil {
		return nil, err
	}
	if err := Detach(r); err != nil { // what one who was killed has left
		return nil, err
	}
	list, err := find(r.Configs, r.Network)
	if err != nil {
		return nil, err
	}
	kept := &attachment{r.Plugins, r.Container, r.Interface, list.Bytes}
	if err := kept.validate(list, r); err != nil {
		return nil, err
	}
	if err := kept.write(r.State); err != nil {
		return nil, err
	}
	found, err := attach(kept, list, r)
	if err != nil {
		return nil, errors.Join(err, Detach(r))
	}
	return found, nil
}

// validate sees to it that every plugin is there and knows the configuration's version, before one of them has done anything.
func (a *attachment) validate(list *libcni.NetworkConfigList, r *Request) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	network, _ := a.open(r)
	if _, err := network.ValidateNetworkList(ctx, list); err != nil {
		return fmt.Errorf("the CNI network %s: %w", list.Name, err)
	}
	return nil
}

func attach(kept *attachment, list *libcni.NetworkConfigList, r *Request) (*Result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	network, runtime := kept.open(r)
	added, err := network.AddNetworkList(ctx, list, runtime)
	if err != nil {
		return nil, fmt.Errorf("ADD of the CNI network %s: %w", list.Name, err)
	}
	if checks, err := version.GreaterThanOrEqualTo(list.CNIVersion, "0.4.0"); err == nil && checks && !list.DisableCheck {
		if err := network.CheckNetworkList(ctx, list, runtime); err != nil {
			return nil, fmt.Errorf("CHECK of the CNI network %s: %w", list.Name, err)
		}
	}
	result, err := current.NewResultFromResult(added)
	if err != nil {
		return nil, fmt.Errorf("the result of the CNI network %s: %w", list.Name, err)
	}
	found := &Result{Addresses: []string{}}
	for _, ip := range result.IPs {
		found.Addresses = append(found.Addresses, ip.Address.String())
	}
	if len(found.Addresses) == 0 {
		return nil, fmt.Errorf("the CNI network %s gives no address", list.Name)
	}
	if err := found.takeDNS(&result.DNS); err != nil {
		return nil, fmt.Errorf("the name servers of the CNI network %s: %w", list.Name, err)
	}
	return found, nil
}

// takeDNS takes over what stands in a resolv.conf(5), one word each.
func (r *Result) takeDNS(dns *types.DNS) error {
	r.Servers, r.Search, r.Options = dns.Nameservers, dns.Search, dns.Options
	if len(r.Search) == 0 && dns.Domain != "" {
		r.Search = []string{dns.Domain}
	}
	for _, server := range r.Servers {
		if _, err := netip.ParseAddr(server); err != nil {
			return err
		}
	}
	for _, word := range slices.Concat(r.Search, r.Options) {
		if word == "" || len(word) > longestWord || strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			return fmt.Errorf("%q is no word of a resolv.conf", word)
		}
	}
	return nil
}

// Detach runs DEL of the plugins of what is attached. Nothing happens where nothing is.
func Detach(r *Request) error {
	if err := os.Setenv("PATH", searchPath); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(r.State, record))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	kept := &attachment{}
	if err := json.Unmarshal(text, kept); err != nil {
		return fmt.Errorf("what is kept of the attachment: %w", err)
	}
	list, err := libcni.NetworkConfFromBytes(kept.Config)
	if err != nil {
		return fmt.Errorf("what is kept of the attachment: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	network, runtime := kept.open(r)
	if err := network.DelNetworkList(ctx, list, runtime); err != nil {
		return fmt.Errorf("DEL of the CNI network %s: %w", list.Name, err)
	}
	return os.RemoveAll(r.State)
}

// open is the library with what it needs for this attachment. Its cache is in the same place.
func (a *attachment) open(r *Request) (*libcni.CNIConfig, *libcni.RuntimeConf) {
	runtime := &libcni.RuntimeConf{ContainerID: a.Container, NetNS: r.Namespace, IfName: a.Interface}
	return libcni.NewCNIConfigWithCacheDir(a.Plugins, r.State, nil), runtime
}

// write keeps it, whole or not at all.
func (a *attachment) write(state string) error {
	text, err := json.Marshal(a)
	if err == nil {
		err = os.MkdirAll(state, 0o700)
	}
	if err != nil {
		return err
	}
	work := filepath.Join(state, record+".new")
	if err := os.WriteFile(work, text, 0o600); err != nil {
		return err
	}
	return os.Rename(work, filepath.Join(state, record))
}

// find reads the configuration of a network, of the first directory that has one.
func find(directories []string, name string) (*libcni.NetworkConfigList, error) {
	var names []string
	for _, directory := range directories {
		list, err := libcni.LoadNetworkConf(directory, name)
		var missing libcni.NotFoundError
		var empty libcni.NoConfigsFoundError
		switch {
		case err == nil:
			return list, nil
		case errors.As(err, &missing) || errors.As(err, &empty) || errors.Is(err, fs.ErrNotExist):
			names = append(names, directory)
		default:
			return nil, fmt.Errorf("the CNI network %s: %w", name, err)
		}
	}
	return nil, fmt.Errorf("no CNI network is called %q in %s", name, strings.Join(names, ", "))
}

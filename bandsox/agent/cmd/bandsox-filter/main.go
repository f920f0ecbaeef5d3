// Command bandsox-filter decides what of one machine's network traffic gets out (internal/filter). The keeper of the machine's network starts
// it in the machine's namespace: its configuration is on standard input, and after it, once there is an uplink, "true"; it says on standard
// output, in one line, that it is ready, or why not; descriptors 3 to 5 are the control socket and the two files of the log.
//
// As "bandsox-filter authority" it makes an authority for the names that are on standard input, a list in JSON, and writes that to standard
// output: certificate, key and what OpenSSL calls the certificate's file.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"unsafe"

	"bandsox.dev/agent/internal/filter"

	"golang.org/x/sys/unix"
)

const (
	controlFile = 3 + iota
	firstLog
	secondLog
)

// given is what the keeper sends.
type given struct {
	Config    filter.Config `json:"config"`
	Rules     string        `json:"rules"`     // to be in force before its own
	Host      []netip.Addr  `json:"host"`      // the host's own addresses
	Resolvers []netip.Addr  `json:"resolvers"` // name servers to ask
	Roots     string        `json:"roots"`     // whom to trust upstream, in PEM; empty: whom the host trusts
}

func main() {
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&[]byte("bandsox-filter\x00")[0])), 0, 0, 0) // it was started by a descriptor's name
	runtime.GOMAXPROCS(min(runtime.NumCPU(), 2))
	debug.SetGCPercent(50)
	signal.Ignore(unix.SIGINT, unix.SIGPIPE)
	if len(os.Args) == 2 && os.Args[1] == "authority" {
		if err := makeAuthority(); err != nil {
			fmt.Fprintln(os.Stderr, "bandsox-filter:", err)
			os.Exit(1)
		}
		return
	}
	run, err := start()
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	os.Stdout.Close()
	fmt.Fprintln(os.Stderr, "bandsox-filter:", run())
	os.Exit(1)
}

func makeAuthority() error {
	var names []string
	if err := json.NewDecoder(os.Stdin).Decode(&names); err != nil {
		return err
	}
	made, err := filter.NewAuthority(names)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(made)
}

func start() (func() error, error) {
	if err := keepOnly(unix.CAP_NET_ADMIN); err != nil {
		return nil, err
	}
	var config given
	keeper := json.NewDecoder(io.LimitReader(os.Stdin, 8<<20))
	if err := keeper.Decode(&config); err != nil {
		return nil, fmt.Errorf("the configuration: %w", err)
	}
	config.Config.Place.Host, config.Config.Place.Resolvers = config.Host, config.Resolvers
	if config.Config.Vault != nil {
		config.Config.Vault.Roots = config.Roots
	}
	if err := os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_acct", []byte("1"), 0); err != nil {
		return nil, fmt.Errorf("counting the bytes of connections: %w", err)
	}
	listener, err := net.FileListener(os.NewFile(controlFile, "control"))
	if err != nil {
		return nil, fmt.Errorf("the control socket: %w", err)
	}
	commands, ok := listener.(*net.UnixListener)
	if !ok {
		return nil, errors.New("the control socket is none of Unix's")
	}
	log := filter.NewLog([2]*os.File{os.NewFile(firstLog, "log"), os.NewFile(secondLog, "log")})
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, unix.SIGHUP) // the keeper's word that the uplink is another one
	made, serve, err := filter.New(&config.Config, log, config.Rules, func() error { return awaitUplink(keeper) })
	if err != nil {
		return nil, err
	}
	return func() error {
		failed := make(chan error, 3)
		go func() { failed <- serve() }()
		go func() { failed <- reshape(made, changes) }()
		go func() { failed <- made.Obey(commands) }()
		return <-failed
	}, nil
}

func awaitUplink(keeper *json.Decoder) error {
	var there bool
	if err := keeper.Decode(&there); err != nil {
		return fmt.Errorf("the uplink: %w", err)
	}
	return nil
}

// reshape limits each new uplink as the old one was, or fails.
func reshape(made *filter.Filter, changes <-chan os.Signal) error {
	for range changes {
		if err := made.Reshape(); err != nil {
			return err
		}
	}
	return nil
}

// keepOnly gives up all capabilities but one, for this process and for those that it starts (capabilities(7)).
func keepOnly(capability uint) error {
	if os.Getuid() == 0 { // a user's filter is root of a namespace of users, but no program that it starts shall be
		const noRoot = 1<<0 | 1<<1 // SECBIT_NOROOT and its lock
		_, _, failure := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, noRoot, 0, 0, 0, 0)
		if failure != 0 {
			return os.NewSyscallError("prctl", failure)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{{Effective: 1 << capability, Permitted: 1 << capability, Inheritable: 1 << capability}}
	_, _, failure := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data)), 0)
	if failure != 0 {
		return os.NewSyscallError("capset", failure)
	}
	_, _, failure = syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(capability), 0, 0, 0)
	if failure != 0 {
		return os.NewSyscallError("prctl", failure)
	}
	return nil
}

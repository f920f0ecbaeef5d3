// Command bandsox-agent is the guest agent: the /init of every BandSox machine, and its PID 1
// for as long as the machine runs. It boots the machine, starts processes and moves files for
// the host, and powers the machine off. docs/protocol.md says how the host talks to it.
//
// Started as any other process it serves the same protocol over a Unix socket, for tests:
//
//	bandsox-agent --listen unix:/path/to/socket
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"bandsox.dev/agent/internal/boot"
	"bandsox.dev/agent/internal/freezer"
	"bandsox.dev/agent/internal/machine"
	"bandsox.dev/agent/internal/network"
	"bandsox.dev/agent/internal/process"
	"bandsox.dev/agent/internal/serve"
	"bandsox.dev/agent/internal/transport"
	"bandsox.dev/agent/internal/wire"
)

// version is set by the build (-ldflags "-X main.version=…").
var version = "0.0.0-dev"

// defaultGrace is how long processes have to end by themselves at shutdown.
const defaultGrace = 2 * time.Second

// capabilities are what a host may rely on beyond the protocol's version.
var capabilities = []string{"exec", "tty", "sessions", "files", "watch", "tar", "metrics", "renew", "streams", "compare"}

// The first thread is main's alone, for boot.TakeSignals.
func init() { runtime.LockOSThread() }

func main() {
	if os.Getpid() != 1 {
		runtime.UnlockOSThread()
		os.Exit(serveLocally(os.Args[1:]))
	}
	go run(boot.TakeSignals())
	select {}
}

// run is all that the agent does as PID 1. It does not return.
func run(signals <-chan os.Signal) {
	system := boot.Begin()
	boot.Announce("link")
	tuneRuntime(system.Settings.Emulated)
	if system.Settings.Network {
		if err := network.Begin(system.Settings.MTU, system.Settings.Gateway); err != nil {
			boot.Warn("network", err)
		}
	}
	boot.Fatal("link", link(system, newServer(system, signals)))
}

func newServer(system *boot.System, signals <-chan os.Signal) *serve.Server {
	server := &serve.Server{Version: version, Capabilities: capabilities, Machine: &machine.Machine{}, Waits: system.Waits}
	var groups *process.Groups
	if system.Cgroup != "" {
		var err error
		if groups, err = process.NewGroups(system.Cgroup); err != nil {
			boot.Warn("cgroups", err)
		} else {
			server.Capabilities = append(server.Capabilities, "cgroup")
		}
	}
	server.Processes = process.NewTable(groups)
	if groups != nil {
		addFreezer(server, system.Cgroup)
	}
	server.Complete = func() { complete(server, system) }
	var once sync.Once
	server.Shutdown = func(r wire.ShutdownRequest) {
		grace := defaultGrace
		if r.TimeoutMS != nil {
			grace = time.Duration(max(0, *r.TimeoutMS)) * time.Millisecond
		}
		once.Do(func() { system.ShutDown(grace, r.Reboot, server.Processes.AwaitAlone) })
	}
	go boot.EndBySignals(signals, func(reboot bool) { server.Shutdown(wire.ShutdownRequest{Reboot: reboot}) })
	return server
}

// complete ends the boot, and gives the server what the machine has only now.
func complete(server *serve.Server, system *boot.System) {
	system.Complete()
	var err error
	if server.BootID, err = machine.BootID(); err != nil {
		boot.Fatal("switch", err)
	}
	server.Image = system.Image
	if system.Layer != nil {
		server.Layer = system.Layer.Upper
		server.Capabilities = append(server.Capabilities, "layer")
	}
	boot.Announce("ready")
}

// addFreezer lets the machine be copied while nothing runs in it but the agent, and the program that is to see to a copy. That has cgroups
// beside those of all others.
func addFreezer(server *serve.Server, cgroup string) {
	aside := cgroup + "-aside"
	groups, err := process.NewGroups(aside)
	if err != nil {
		boot.Warn("cgroups", err)
		return
	}
	server.HookGroups = groups
	server.Freezer = &freezer.Freezer{
		Groups: freezer.TopGroups(filepath.Dir(cgroup), aside), Hold: server.Processes.Hold, Release: server.Processes.Release,
	}
	server.Capabilities = append(server.Capabilities, "freeze")
}

// errNoVsock is what the host tells of a kernel that it then reaches in another way (bandsox/engine/accelerators.py).
var errNoVsock = errors.New("no vsock in this kernel")

// link serves the host over what the machine has. It only returns when that fails.
func link(system *boot.System, server *serve.Server) error {
	kind := system.Settings.Transport
	if kind == "" {
		kind = bestTransport()
	}
	server.Transport = kind
	switch kind {
	case "virtio-serial":
		return transport.FindPorts(&system.Paths, func(port *transport.Port) { go server.Serve(port) })
	case "vsock":
		if !transport.HasVsock() {
			return errNoVsock
		}
		listener, err := transport.ListenVsock()
		if err != nil {
			return err
		}
		if port := system.Settings.Doorbell; port == 0 {
			go transport.RingHost()
		} else if token, err := transport.AskHost(port); err != nil {
			return err
		} else {
			server.RequireToken(token)
		}
		return server.Listen(listener)
	case "console":
		console, err := transport.OpenConsole()
		if err != nil {
			return err
		}
		return server.Listen(console)
	}
	return fmt.Errorf("unknown transport %q", kind)
}

func bestTransport() string {
	switch {
	case transport.HasPorts():
		return "virtio-serial"
	case transport.HasVsock():
		return "vsock"
	}
	return "console"
}

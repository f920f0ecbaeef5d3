package serve

import (
	"context"
	"os"
	"sync"
	"time"

	"bandsox.dev/agent/internal/machine"
	"bandsox.dev/agent/internal/network"
	"bandsox.dev/agent/internal/wire"
)

const (
	// freezeLimit is how long the programs may take to stop. One that sleeps in the kernel, such as for a dead
	// file server, cannot be stopped, and does not come back to its own code either.
	freezeLimit = time.Second

	hookPath      = "/etc/bandsox/on-restore"
	hookLimit     = 5 * time.Second // where the host does not say
	mostHookLimit = 5 * time.Minute
	mostGrace     = 5 * time.Minute
	machineIDSize = 16
)

// freeze stops all programs until the host cancels it, which is its success, or is gone.
func freeze(k *call) (any, error) {
	r, err := request[wire.FreezeRequest](k)
	if err != nil {
		return nil, err
	}
	freezer := k.conn.server.Freezer
	if freezer == nil {
		return nil, wire.Fail(wire.CodeUnsupported, "the guest's kernel has no cgroups that could be frozen")
	}
	rehearse()
	begin := time.Now()
	number, complete, err := freezer.Freeze(freezeLimit)
	if err != nil {
		return nil, err
	}
	k.conn.server.Machine.PrepareRenewal()
	if k.event(wire.FrozenEvent{Kind: "frozen", Complete: complete, TookUS: time.Since(begin).Microseconds()}) == nil {
		<-k.Done()
	}
	if context.Cause(k) == errCancelled {
		freezer.Thaw()
		return wire.Done{}, nil
	}
	freezer.Abandon(number, min(time.Duration(max(0, r.GraceMS))*time.Millisecond, mostGrace))
	return nil, errLost
}

// rehearse has the codec meet, once, the messages that only a renewal knows. It makes itself a table of each, by much code that would else be
// new to the emulated processor of every copy: 0.5 MiB for each.
var rehearse = sync.OnceFunc(func() {
	empty := []byte{0x80} // MessagePack's map of nothing
	for _, message := range []any{&wire.RenewRequest{}, &wire.ControlMessage{}} {
		_ = wire.Decode(empty, message)
	}
	failure := ""
	for _, message := range []any{
		wire.ClockEvent{}, wire.RenewResult{Steps: []wire.RenewStep{{Failure: &failure}}, Hook: &wire.HookResult{}},
	} {
		_, _ = wire.MessageFrame(wire.Event, message)
	}
})

func thaw(k *call) (any, error) {
	freezer := k.conn.server.Freezer
	return wire.ThawResult{Frozen: freezer != nil && freezer.Thaw()}, nil
}

// renew gives the machine, a copy of another or of itself, its own identity, and only then lets its programs go on. The order is that
// of what depends on what: everything may use random numbers, nobody may come in with the old token, and the guest's own
// program sees all that is new. Where it fails the programs stay frozen; what a full disk or a read-only
// root prevents is no such failure, but the host is told.
func renew(k *call) (any, error) {
	r, err := request[wire.RenewRequest](k)
	if err == nil {
		err = checkRenewal(r)
	}
	if err != nil {
		return nil, err
	}
	s := k.conn.server
	renewal := &renewal{call: k}
	renewal.result.Frozen = s.Freezer != nil && s.Freezer.Claim()
	if err := renewal.essentials(r); err != nil {
		return nil, err
	}
	renewal.names(r)
	if _, err := os.Stat(hookPath); err == nil {
		renewal.step("hook", func() error { return renewal.hook(r.HookTimeoutMS) })
	}
	if s.Freezer != nil {
		renewal.step("thaw", func() error { s.Freezer.Thaw(); return nil })
	}
	return renewal.result, nil
}

func checkRenewal(r *wire.RenewRequest) error {
	switch {
	case len(r.Token) != 32:
		return wire.Fail(wire.CodeInvalid, "a token of %d bytes", len(r.Token))
	case r.MachineID != nil && len(r.MachineID) != machineIDSize:
		return wire.Fail(wire.CodeInvalid, "a machine id of %d bytes", len(r.MachineID))
	case len(r.Entropy) < 32:
		return wire.Fail(wire.CodeInvalid, "%d bytes of entropy", len(r.Entropy))
	}
	return nil
}

// renewal is one run of renew.
type renewal struct {
	call   *call
	result wire.RenewResult
}

// step does one thing and notes how long it took, and how it failed.
func (n *renewal) step(name string, do func() error) error {
	begin := time.Now()
	err := do()
	done := wire.RenewStep{Name: name, TookUS: time.Since(begin).Microseconds()}
	if err != nil {
		text := err.Error()
		text = text[:min(len(text), 500)]
		done.Failure = &text
	}
	n.result.Steps = append(n.result.Steps, done)
	return err
}

// essentials are what a copy must not go on without.
func (n *renewal) essentials(r *wire.RenewRequest) error {
	s := n.call.conn.server
	if err := n.step("entropy", func() error { return machine.AddEntropy(r.Entropy) }); err != nil {
		return err
	}
	if err := n.step("clock", n.clock); err != nil {
		return err
	}
	if r.Network != nil {
		if err := n.step("network", func() error { return network.Configure(r.Network) }); err != nil {
			return err
		}
		_ = n.step("sockets", func() error { _, err := network.CloseDead(); return err })
	}
	token := [32]byte(r.Token)
	s.token.Store(&token)
	return n.step("connections", func() error {
		n.result.Closed = s.expelOthers(n.call.conn)
		return nil
	})
}

// names are what programs call the machine.
func (n *renewal) names(r *wire.RenewRequest) {
	m := n.call.conn.server.Machine
	if r.MachineID != nil {
		_ = n.step("machine-id", func() error { return m.RenewMachineID(r.MachineID) })
	}
	if r.Hostname != nil {
		_ = n.step("hostname", func() error { return m.RenewHostname(*r.Hostname) })
	}
	_ = n.step("names", func() error { return m.RenewNames(r.Hosts, r.Resolv) })
	if r.Trust != nil {
		_ = n.step("trust", func() error { return m.RenewTrust(r.Trust) })
	}
	m.SetDefaults(r.Env, r.User, r.Workdir)
}

func (n *renewal) clock() error {
	step, off, err := n.call.askTheTime()
	if err != nil {
		return err
	}
	n.result.ClockStepUS, n.result.ClockErrorUS = step.Microseconds(), off.Microseconds()
	return machine.StepClock(step)
}

// hook runs the guest's own program for a restore. Everything else is still frozen.
func (n *renewal) hook(timeoutMS *int64) error {
	limit := hookLimit
	if timeoutMS != nil {
		limit = min(time.Duration(max(1, *timeoutMS))*time.Millisecond, mostHookLimit)
	}
	s := n.call.conn.server
	ran, err := s.Processes.RunAside(n.call, s.HookGroups, hookPath, s.Machine.Defaults().Env, limit)
	if err != nil {
		return err
	}
	n.result.Hook = &wire.HookResult{
		ExitCode: ran.Exit.Code, TimedOut: ran.Exit.TimedOut, Output: ran.Output, Truncated: ran.Truncated,
	}
	return nil
}

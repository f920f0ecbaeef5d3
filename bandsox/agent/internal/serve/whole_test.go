package serve

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"bandsox.dev/agent/internal/wire"
)

// halfServer is one of a machine that waits to be told whose it is.
func halfServer() (server *Server, completed *atomic.Int32) {
	server, completed = newServer(), new(atomic.Int32)
	server.BootID = [16]byte{9} // of the machine that was saved, were it told
	server.Complete = func() {
		completed.Add(1)
		server.BootID = [16]byte{1, 2, 3}
	}
	server.Waits = func() error { return nil }
	return server, completed
}

func TestAMachineThatWaitsDoesNothingElse(t *testing.T) {
	server, completed := halfServer()
	h := connect(t, server)
	h.ok("ping", nil)
	h.ok("prepare", nil)
	for op := range operations {
		if op != "ping" && op != "prepare" && op != "setup" {
			h.fails(wire.CodeInvalid, op, fields{"path": []byte("/etc/passwd"), "argv": argv("true")})
		}
	}
	if completed.Load() != 0 {
		t.Fatal("it was completed by something else than its setup")
	}
	h.ok("setup", nil)
	h.ok("info", nil)
	h.fails(wire.CodeInvalid, "prepare", nil)
}

func TestAMachineIsCompletedOnceWhoeverAsks(t *testing.T) {
	server, completed := halfServer()
	var hosts []*host
	for range 8 {
		hosts = append(hosts, connect(t, server))
	}
	var all sync.WaitGroup
	for _, h := range hosts {
		all.Add(1)
		go func() {
			defer all.Done()
			if a := h.call("setup", nil); a.failure != nil || a.lost {
				t.Error(a.failure)
			}
		}()
	}
	all.Wait()
	if n := completed.Load(); n != 1 {
		t.Errorf("completed %d times", n)
	}
}

func TestAMachineThatHasSeenItsDisksIsNotToBeSaved(t *testing.T) {
	server, _ := halfServer()
	server.Waits = func() error { return errors.New("it has seen its disks") }
	h := connect(t, server)
	h.fails(wire.CodeUnsupported, "prepare", nil)
	h.ok("setup", nil)
}

func TestAMachineTellsTheNameOfItsBootOnlyWhenItIsItsOwn(t *testing.T) {
	server, _ := halfServer()
	h := connect(t, server)
	if h.boot != [16]byte{} {
		t.Errorf("before it is whole: %x", h.boot)
	}
	h.ok("setup", nil)
	if again := connect(t, server); again.boot != [16]byte{1, 2, 3} {
		t.Errorf("once it is whole: %x", again.boot)
	}
}

package serve

import (
	"os"
	"runtime"
	"sync/atomic"
	"testing"

	"bandsox.dev/agent/internal/wire"
)

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// waited tells whether anybody has waited for a turn.
func (t *turns) waited() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.event != 0
}

func TestOneAtATimeHasTheTurnAndOneAtMostWaits(t *testing.T) {
	before := descriptors(t)
	var turn turns
	var holders, rounds, working atomic.Int32
	ended := make(chan struct{})
	var work func()
	work = func() {
		working.Add(1)
		defer working.Add(-1)
		for {
			if holders.Add(1) != 1 {
				t.Error("two have the turn")
			}
			last := rounds.Add(1) == 2000
			holders.Add(-1)
			if last {
				turn.end()
				close(ended)
				return
			}
			turn.pass(work)
			if rounds.Load()%3 == 0 {
				runtime.Gosched()
			}
			if !turn.await() {
				return
			}
		}
	}
	go work()
	<-ended
	eventually(t, "who waited has gone, and what it waited in is closed", func() bool {
		return working.Load() == 0 && descriptors(t) == before
	})
}

func TestAConnectionThatHasEndedLeavesNothing(t *testing.T) {
	use := func(t *testing.T) {
		h := open(t)
		for range 5 {
			h.ok("stat", fields{"path": []byte("/")})
		}
		h.request("exec", fields{"argv": argv("sleep", "600")})
		h.hello([32]byte{}) // while the operation runs
		for {
			if frameType, _ := h.read(); frameType == wire.Welcome {
				break
			}
		}
		h.ok("stat", fields{"path": []byte("/")})
	}
	t.Run("what the first one opens for all", use)
	files, goroutines := descriptors(t), runtime.NumGoroutine()
	t.Run("another one", use)
	eventually(t, "descriptors and goroutines are those of before", func() bool {
		return descriptors(t) <= files && runtime.NumGoroutine() <= goroutines
	})
}

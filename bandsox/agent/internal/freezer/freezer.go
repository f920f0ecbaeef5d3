// Package freezer stops every program of the guest while the machine is copied, so that none of them runs in a copy
// before the copy has an identity of its own.
//
// It is the cgroup freezer (Linux, Documentation/admin-guide/cgroup-v2.rst, "cgroup.freeze"): what is frozen stays in the
// kernel and can still be killed. All cgroups below the root are frozen, also those that programs have made; the agent
// itself is in the root. A copy of the machine's memory holds frozen programs, and the copy's agent thaws
// them when the host has renewed it.
//
// The host that freezes may die before it thaws. Then its connection ends, in the machine itself and, because a copy has no client,
// in every copy as well. Which of the two it is is told by the hardware: the serial numbers of the disks, which the VMM
// answers anew each time they are read, and which are others in a copy (Linux, drivers/block/virtio_blk.c, serial_show).
package freezer

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

// maxPasses bounds how often it is looked for cgroups that programs have made before they were frozen.
const maxPasses = 16

// Freezer freezes and thaws. It is safe for concurrent use.
type Freezer struct {
	// Groups lists the cgroup directories that hold programs.
	Groups func() ([]string, error)
	// Hold returns when no program is being started, and none is until Release.
	Hold, Release func()

	mu      sync.Mutex
	frozen  []string // the directories that were frozen here
	held    bool     // everything is frozen
	claimed bool     // by a renewal: nobody else thaws
	number  uint64   // of the freezing that is the latest
	mark    string
	timer   *time.Timer
}

// Freeze stops every program. complete tells whether all have stopped within the limit: one that has not sleeps in the kernel and stops
// before it returns from there. number names this freezing to Abandon.
func (f *Freezer) Freeze(limit time.Duration) (number uint64, complete bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.held {
		return 0, false, wire.Fail(wire.CodeBusy, "the programs are frozen already")
	}
	f.mark = hardwareMark()
	f.Hold()
	f.held, f.claimed = true, false
	f.number++
	if err := f.freezeAll(); err != nil {
		f.thaw()
		return 0, false, err
	}
	return f.number, awaitFrozen(f.frozen, limit), nil
}

// Thaw lets the programs go on, and tells whether they were frozen.
func (f *Freezer) Thaw() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.thaw()
}

// Claim leaves the thawing to the caller alone, and tells whether the programs are frozen.
func (f *Freezer) Claim() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.claimed = f.held
	return f.held
}

// Abandon is called when the host that has frozen is gone. In the machine that was frozen the programs go on after the
// grace; in a copy they stay frozen.
func (f *Freezer) Abandon(number uint64, grace time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.held || f.claimed || f.number != number || hardwareMark() != f.mark {
		return
	}
	if grace <= 0 {
		f.thaw()
		return
	}
	f.timer = time.AfterFunc(grace, func() { f.Abandon(number, 0) })
}

func (f *Freezer) thaw() bool {
	if !f.held {
		return false
	}
	if f.timer != nil {
		f.timer.Stop()
		f.timer = nil
	}
	for _, group := range f.frozen {
		_ = setFrozen(group, false) // one that is gone has nobody in it
	}
	f.frozen, f.held, f.claimed = nil, false, false
	f.Release()
	return true
}

// freezeAll freezes the groups until there is none that is not: programs that were not frozen yet may have made others.
func (f *Freezer) freezeAll() error {
	known := map[string]bool{}
	for range maxPasses {
		groups, err := f.Groups()
		if err != nil {
			return wire.AsFailure(err)
		}
		found := false
		for _, group := range groups {
			if known[group] {
				continue
			}
			known[group], found = true, true
			if isFrozen(group) { // by somebody in the guest, whose it stays
				continue
			}
			if err := setFrozen(group, true); err == nil {
				f.frozen = append(f.frozen, group)
			} else if !os.IsNotExist(err) {
				return wire.FailPath(group, err)
			}
		}
		if !found {
			return nil
		}
	}
	return wire.Fail(wire.CodeBusy, "cgroups are made faster than they can be frozen")
}

func isFrozen(group string) bool {
	content, err := os.ReadFile(filepath.Join(group, "cgroup.freeze"))
	return err == nil && strings.TrimSpace(string(content)) == "1"
}

func setFrozen(group string, frozen bool) error {
	content := "0"
	if frozen {
		content = "1"
	}
	file, err := os.OpenFile(filepath.Join(group, "cgroup.freeze"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.WriteString(content)
	return err
}

// awaitFrozen waits until everything in the groups has stopped. The kernel announces it by an event on cgroup.events.
func awaitFrozen(groups []string, limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for _, group := range groups {
		if !awaitGroup(group, deadline) {
			return false
		}
	}
	return true
}

func awaitGroup(group string, deadline time.Time) bool {
	fd, err := unix.Open(filepath.Join(group, "cgroup.events"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err == unix.ENOENT
	}
	defer unix.Close(fd)
	for {
		var content [256]byte
		n, err := unix.Pread(fd, content[:], 0)
		if err != nil {
			return err == unix.ENODEV // it was removed
		}
		if strings.Contains(string(content[:n]), "frozen 1") {
			return true
		}
		left := time.Until(deadline).Milliseconds()
		if left <= 0 {
			return false
		}
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}, int(left)); err != nil && err != unix.EINTR {
			return false
		}
	}
}

// hardwareMark is what distinguishes this machine from a copy of it.
func hardwareMark() string {
	serials, _ := filepath.Glob("/sys/block/vd*/serial")
	var mark strings.Builder
	for _, path := range serials {
		serial, _ := os.ReadFile(path)
		mark.WriteString(path + "=" + string(serial) + "\n")
	}
	return mark.String()
}

// TopGroups lists the cgroups directly below the root of the hierarchy, but for those in which nothing is ever frozen.
func TopGroups(root string, except ...string) func() ([]string, error) {
	return func() ([]string, error) {
		entries, err := os.ReadDir(root)
		if err != nil {
			return nil, err
		}
		var groups []string
		for _, entry := range entries {
			group := filepath.Join(root, entry.Name())
			if !entry.IsDir() {
				continue
			}
			excepted := false
			for _, name := range except {
				excepted = excepted || group == name
			}
			if !excepted {
				groups = append(groups, group)
			}
		}
		return groups, nil
	}
}

package process

import (
	"regexp"
	"slices"
	"strconv"
	"sync"
	"unsafe"

	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

const (
	// keptEnded is how many ended sessions can still be asked for their output.
	keptEnded = 64
	// maxKept bounds the memory that ended sessions' output takes together: the machine may be
	// small, and PID 1 is the one process whose memory the kernel cannot take back.
	maxKept = 16 << 20
	// maxRunning bounds the sessions that run at once.
	maxRunning = 1024
	// maxListedArgv bounds what the arguments take in a list of sessions, which is one frame.
	maxListedArgv = 512 << 10
)

var sessionName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

// Table holds the processes that the agent has started, and reaps them and all orphans.
type Table struct {
	groups *Groups // nil: no cgroups, processes are killed by their process group

	// starting is held by everything that starts a program, and exclusively while none may be.
	starting sync.RWMutex

	// mu is held from fork to registration and while a child is reaped: an exit status
	// always finds its process, and a registered pid is never another process's.
	mu      sync.Mutex
	byPid   map[int]*Process
	started sync.Cond // the reaper waits on mu, having found no child at all, until it is to look again
	waiting bool      // it does, and none was started since
	alone   sync.Cond // waits on mu until there is no child at all

	sessionMu sync.Mutex
	sessions  map[string]*Process
	endedIDs  []string // oldest first
	named     int
}

// NewTable makes a table and starts its reaper.
func NewTable(groups *Groups) *Table {
	t := &Table{groups: groups, byPid: map[int]*Process{}, sessions: map[string]*Process{}}
	t.started.L, t.alone.L = &t.mu, &t.mu
	go t.reap()
	return t
}

// Hold returns when no program is being started; whatever would start one waits for Release.
func (t *Table) Hold() { t.starting.Lock() }

// Release ends Hold.
func (t *Table) Release() { t.starting.Unlock() }

// reap waits for children as long as the agent lives. It first only looks which child has
// ended (WNOWAIT), so that the child is reaped while the table is locked.
func (t *Table) reap() {
	for {
		pid, err := ended(0)
		if err == unix.EINTR {
			continue
		}
		t.mu.Lock()
		switch p := t.byPid[pid]; {
		case err != nil:
			t.awaitChild()
		case p != nil:
			t.collectLocked(p)
		default: // an orphan; or a program that could not be executed, which the fork has reaped
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
		}
		t.mu.Unlock()
	}
}

// collect reaps the process if it has ended, and tells whether it has.
func (t *Table) collect(p *Process) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byPid[p.Pid] != p || t.collectLocked(p)
}

func (t *Table) collectLocked(p *Process) bool {
	var status unix.WaitStatus
	var usage unix.Rusage
	if pid, err := unix.Wait4(p.Pid, &status, unix.WNOHANG, &usage); pid != p.Pid || err != nil {
		return false
	}
	delete(t.byPid, p.Pid)
	p.noteExit(status, &usage)
	if !p.hasPidfd {
		raiseEvent(p.exitFD)
	}
	return true
}

// lookAfter makes the reaper look for children again. That follows every start, but not at once: a process that ends soon is
// collected by who follows it, and the reaper has nothing but its orphans, when it has gone.
func (t *Table) lookAfter() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.started.Signal()
}

// awaitChild returns when a process was started and is to be looked after. Without children there are no
// orphans either: every process descends from PID 1. It looks once more, since mu was not held when none was found.
func (t *Table) awaitChild() {
	if _, err := ended(unix.WNOHANG); err == nil {
		return
	}
	t.waiting = true
	t.alone.Broadcast()
	for t.waiting {
		t.started.Wait()
	}
}

// AwaitAlone returns when no process but the agent is left.
func (t *Table) AwaitAlone() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for !t.waiting {
		t.alone.Wait()
	}
}

// ended returns the pid of a child that has ended, without reaping it. It waits for one, or with WNOHANG says 0.
func ended(options int) (int, error) {
	// siginfo_t with the fields of SIGCHLD (Linux, include/uapi/asm-generic/siginfo.h)
	type childInfo struct {
		signo, errno, code, _ int32
		pid                   int32
	}
	var info unix.Siginfo
	err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOWAIT|options, nil)
	return int((*childInfo)(unsafe.Pointer(&info)).pid), err
}

// reserve gives a session its id before it is started.
func (t *Table) reserve(id string) (string, error) {
	t.sessionMu.Lock()
	defer t.sessionMu.Unlock()
	if len(t.sessions)-len(t.endedIDs) >= maxRunning {
		return "", wire.Fail(wire.CodeBusy, "%d sessions are running", maxRunning)
	}
	if id == "" {
		for {
			t.named++
			id = "s" + strconv.Itoa(t.named)
			if _, taken := t.sessions[id]; !taken {
				break
			}
		}
	}
	if !sessionName.MatchString(id) {
		return "", wire.Fail(wire.CodeInvalid, "session id %q: only 1 to 64 of A-Z a-z 0-9 _ . -", id)
	}
	if _, taken := t.sessions[id]; taken {
		return "", wire.Fail(wire.CodeExists, "session %s exists", id)
	}
	t.sessions[id] = nil
	return id, nil
}

// settle puts the started process into the reserved place, or frees it when p is nil.
func (t *Table) settle(id string, p *Process) {
	t.sessionMu.Lock()
	defer t.sessionMu.Unlock()
	if p == nil {
		delete(t.sessions, id)
	} else {
		t.sessions[id] = p
	}
}

// noteEnded remembers in which order sessions ended, and drops the oldest ones, and the output
// of those that are not quite as old when there is much of it.
func (t *Table) noteEnded(p *Process) {
	t.sessionMu.Lock()
	defer t.sessionMu.Unlock()
	if t.sessions[p.ID] != p {
		return // forgotten already
	}
	t.endedIDs = append(t.endedIDs, p.ID)
	if len(t.endedIDs) > keptEnded {
		delete(t.sessions, t.endedIDs[0])
		t.endedIDs = slices.Delete(t.endedIDs, 0, 1)
	}
	total := 0
	for _, id := range slices.Backward(t.endedIDs) {
		for i := range t.sessions[id].rings {
			r := &t.sessions[id].rings[i]
			if total += r.size(); total > maxKept {
				r.empty()
			}
		}
	}
}

// Session finds a session.
func (t *Table) Session(id string) (*Process, error) {
	t.sessionMu.Lock()
	defer t.sessionMu.Unlock()
	if p := t.sessions[id]; p != nil {
		return p, nil
	}
	return nil, wire.Fail(wire.CodeNoSuchSession, "no session %q", id)
}

// Forget drops an ended session.
func (t *Table) Forget(id string) error {
	t.sessionMu.Lock()
	defer t.sessionMu.Unlock()
	p := t.sessions[id]
	switch {
	case p == nil:
		return wire.Fail(wire.CodeNoSuchSession, "no session %q", id)
	case p.Running():
		return wire.Fail(wire.CodeBusy, "session %s is running", id)
	}
	delete(t.sessions, id)
	if at := slices.Index(t.endedIDs, id); at >= 0 {
		t.endedIDs = slices.Delete(t.endedIDs, at, at+1)
	}
	return nil
}

// Sessions lists all sessions.
func (t *Table) Sessions() []wire.SessionEntry {
	t.sessionMu.Lock()
	defer t.sessionMu.Unlock()
	entries := make([]wire.SessionEntry, 0, len(t.sessions))
	for _, p := range t.sessions {
		if p != nil {
			entries = append(entries, p.entry(maxListedArgv/len(t.sessions)))
		}
	}
	return entries
}

// entry lists at most budget bytes of the arguments.
func (p *Process) entry(budget int) wire.SessionEntry {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := wire.SessionEntry{
		Session: p.ID, Pid: p.Pid, TTY: p.TTY, Attached: p.attached,
		Started: float64(p.Started.UnixMicro()) / 1e6, Running: p.exit == nil,
	}
	for _, arg := range p.Argv {
		shown := arg[:min(len(arg), budget)]
		e.Argv = append(e.Argv, []byte(shown))
		if budget -= len(shown) + 4; budget <= 0 { // 4: what MessagePack adds
			break
		}
	}
	if p.exit != nil {
		e.ExitCode = &p.exit.Code
	}
	return e
}

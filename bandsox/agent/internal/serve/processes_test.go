package serve

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

func TestExecKeepsStdoutAndStderrApartAndByteExact(t *testing.T) {
	a := open(t).sh(`printf 'a\0\377b'; printf 'err\n' >&2; exit 7`)
	if a.stdout.String() != "a\x00\xffb" || a.stderr.String() != "err\n" || a.number(t, "exit_code") != 7 {
		t.Fatal(a)
	}
	if a.events[0]["kind"] != "started" || toInt(a.events[0]["pid"]) < 2 || a.result["timed_out"] != false {
		t.Fatal(a)
	}
}

func TestMergeStderrKeepsTheOrder(t *testing.T) {
	a := open(t).ok("exec", fields{"shell": []byte("echo 1; echo 2 >&2; echo 3"), "merge_stderr": true})
	if a.stdout.String() != "1\n2\n3\n" || a.stderr.Len() != 0 {
		t.Fatal(a)
	}
}

func TestAProgramSleepsAsPreciselyAsAnywhere(t *testing.T) {
	h := connect(t, newServer())
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks { // as threads that the runtime's monitor has started
		file := filepath.Join("/proc", task.Name(), "timerslack_ns")
		if err := os.WriteFile(file, []byte("20000000"), 0); err != nil {
			t.Skip(err)
		}
		t.Cleanup(func() { _ = os.WriteFile(file, []byte("50000"), 0) })
	}
	a := h.ok("exec", fields{"argv": argv("cat", "/proc/self/timerslack_ns")})
	if a.stdout.String() != "50000\n" {
		t.Fatalf("%q", &a.stdout)
	}
}

func TestASignalIsReportedAsSuch(t *testing.T) {
	a := open(t).sh("kill -SEGV $$")
	if a.number(t, "exit_code") != 139 || a.number(t, "signal") != 11 {
		t.Fatal(a.result)
	}
}

func TestEnvironmentWorkingDirectoryAndUser(t *testing.T) {
	server := newServer()
	h := connect(t, server)
	h.ok("setup", fields{"env": map[string]string{"IMAGE": "yes", "BOTH": "image"}, "workdir": []byte("/usr"), "user": []byte("0")})
	a := h.ok("exec", fields{"shell": []byte("echo $IMAGE $BOTH $OWN $HOME; pwd; id -u"), "env": map[string]string{"BOTH": "call", "OWN": "x y"}})
	if a.stdout.String() != "yes call x y /root\n/usr\n0\n" {
		t.Errorf("%q", &a.stdout)
	}
	a = h.ok("exec", fields{"argv": argv("/usr/bin/env"), "clear_env": true, "env": map[string]string{"A": "1"}, "cwd": []byte("/")})
	if a.stdout.String() != "A=1\n" {
		t.Errorf("%q", &a.stdout)
	}
	a = h.ok("exec", fields{"shell": []byte("id -u; id -g; id -G; echo $HOME"), "user": []byte("12345:54321")})
	if a.stdout.String() != "12345\n54321\n54321\n/\n" {
		t.Errorf("%q", &a.stdout)
	}
	h.fails(wire.CodeNoSuchUser, "exec", fields{"argv": argv("true"), "user": []byte("nobody-at-all")})
	h.fails(wire.CodeNoSuchUser, "exec", fields{"argv": argv("true"), "user": []byte("root:no-such-group")})
}

func TestWhatCannotBeStartedSaysWhy(t *testing.T) {
	h := open(t)
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	os.WriteFile(script, []byte("no interpreter\n"), 0o755)
	plain := filepath.Join(dir, "plain")
	os.WriteFile(plain, []byte("#!/bin/sh\n"), 0o644)
	orphan := filepath.Join(dir, "orphan")
	os.WriteFile(orphan, []byte("#!/no/such/interpreter\n"), 0o755)
	h.fails(wire.CodeExecNotFound, "exec", fields{"argv": argv("no-such-program")})
	h.fails(wire.CodeExecNotFound, "exec", fields{"argv": argv("/no/such/program")})
	h.fails(wire.CodeExecFailed, "exec", fields{"argv": argv(script)})
	h.fails(wire.CodeExecFailed, "exec", fields{"argv": argv(plain)})
	h.fails(wire.CodeExecFailed, "exec", fields{"argv": argv(orphan)})
	h.fails(wire.CodeExecFailed, "exec", fields{"argv": argv(dir)})
	h.fails(wire.CodeNotFound, "exec", fields{"argv": argv("true"), "cwd": []byte("/no/such/dir")})
	h.fails(wire.CodeNotADirectory, "exec", fields{"argv": argv("true"), "cwd": []byte(plain)})
	h.fails(wire.CodeInvalid, "exec", fields{})
	h.fails(wire.CodeInvalid, "exec", fields{"argv": argv("true"), "shell": []byte("true")})
	h.fails(wire.CodeInvalid, "exec", fields{"argv": argv("true"), "env": map[string]string{"A=B": "1"}})
	h.fails(wire.CodeInvalid, "exec", fields{"argv": argv("a\x00b")})
}

func TestATerseStartIsToldWithWhatComesNextOrSoon(t *testing.T) {
	h := open(t)
	a := h.ok("exec", fields{"shell": []byte("echo here; read line </dev/null; exit 3"), "terse": true})
	if len(a.events) != 1 || a.stdout.String() != "here\n" || a.number(t, "exit_code") != 3 {
		t.Fatal(a)
	}
	h.request("exec", fields{"argv": argv("sleep", "1000"), "terse": true})
	silent := &answer{}
	for len(silent.events) == 0 {
		if h.step(silent) {
			t.Fatal(silent)
		}
	}
	pid := strconv.FormatInt(toInt(silent.events[0]["pid"]), 10)
	if !alive(pid) {
		t.Fatal("it is told of a process that does not run")
	}
	h.message(wire.Control, fields{"kind": "signal", "signal": 9})
	if a := h.answer(); a.number(t, "signal") != 9 {
		t.Fatal(a)
	}
}

func TestWhatComesWhileATerseCommandRunsIsSeenAtOnce(t *testing.T) {
	for name, news := range map[string]func(h *host){
		"cancel": func(h *host) {
			h.message(wire.Control, fields{"kind": "cancel"})
			if a := h.answer(); a.failure == nil || a.failure.Code != wire.CodeCancelled {
				t.Error(a)
			}
		},
		"a signal": func(h *host) {
			h.message(wire.Control, fields{"kind": "signal", "signal": 9})
			if a := h.answer(); a.failure != nil || a.number(t, "signal") != 9 {
				t.Error(a)
			}
		},
		"a greeting": func(h *host) {
			h.hello([32]byte{})
			for {
				if frameType, _ := h.read(); frameType == wire.Welcome {
					return
				}
			}
		},
		"the end": func(h *host) { h.socket.Close() },
	} {
		for _, delay := range []time.Duration{0, 10 * time.Millisecond, 100 * time.Millisecond} {
			t.Run(name+" after "+delay.String(), func(t *testing.T) {
				h := open(t)
				mark := "60" + strconv.Itoa(os.Getpid()) // a number of seconds that no other sleep has
				h.request("exec", fields{"argv": argv("sleep", mark), "terse": true})
				time.Sleep(delay)
				news(h)
				eventually(t, "the command has ended", func() bool { return !runs("sleep", mark) })
			})
		}
	}
}

func TestACommandThatIsHeldDoesNotKeepItsConnectionFromBeingRead(t *testing.T) {
	server := newServer()
	h, other := connect(t, server), connect(t, server)
	table.Hold()
	h.request("exec", fields{"argv": argv("true"), "terse": true})
	h.hello([32]byte{})
	h.expectWelcome()
	table.Release()
	h.ok("ping", nil)
	other.ok("exec", fields{"argv": argv("true"), "terse": true})
}

func TestACommandThatEndsSoonNeedsNoSecondReader(t *testing.T) {
	server := newServer()
	eventually(t, "one that ends within the first moments", func() bool {
		h := connect(t, server)
		h.ok("exec", fields{"argv": argv("true"), "terse": true})
		h.ok("exec", fields{"argv": argv("true"), "terse": true})
		defer h.socket.Close()
		server.mu.Lock()
		defer server.mu.Unlock()
		for c := range server.connections {
			if c.turns.waited() {
				return false
			}
		}
		return true
	})
}

func TestOrphansOfProgramsThatHaveEndedAreReaped(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) })
	h := open(t)
	for _, script := range []string{"sleep 0.2 >/dev/null 2>&1 & echo $!", "(sleep 0.01 & echo $!) 2>&1; sleep 0.3"} {
		pid := strings.TrimSpace(h.sh(script).stdout.String())
		eventually(t, "no zombie stays of it", func() bool {
			_, err := os.Stat("/proc/" + pid)
			return os.IsNotExist(err)
		})
	}
}

func TestFastCommandsLoseNoOutput(t *testing.T) {
	h := open(t)
	for i := range 100 {
		if a := h.sh("echo out; echo err >&2"); a.stdout.String() != "out\n" || a.stderr.String() != "err\n" {
			t.Fatalf("round %d: %q %q", i, &a.stdout, &a.stderr)
		}
	}
	if a := h.sh("head -c 60000 /dev/zero"); a.stdout.Len() != 60000 {
		t.Fatal(a.stdout.Len())
	}
}

func TestMuchOutputOfBothStreamsArrivesWhole(t *testing.T) {
	a := open(t).sh("head -c 5000000 /dev/zero & head -c 5000000 /dev/zero >&2; wait")
	if a.stdout.Len() != 5_000_000 || a.stderr.Len() != 5_000_000 {
		t.Fatal(a.stdout.Len(), a.stderr.Len())
	}
}

func TestExecEndsThoughABackgroundChildHoldsThePipes(t *testing.T) {
	dir := t.TempDir()
	fifo, done := dir+"/go", dir+"/done"
	unix.Mkfifo(fifo, 0o600)
	h := open(t)
	a := h.sh("(read x < " + fifo + "; echo late; echo late; echo survived > " + done + ") & echo early")
	if a.stdout.String() != "early\n" {
		t.Fatalf("%q", &a.stdout)
	}
	os.WriteFile(fifo, []byte("go\n"), 0) // the child writes into the pipe that nobody wants any more
	eventually(t, "the child survives", func() bool { _, err := os.Stat(done); return err == nil })
}

func TestTheTimeLimitKillsEverything(t *testing.T) {
	h := open(t)
	script := "sleep 600 & echo $!; setsid sleep 601 & echo $!; wait"
	a := h.ok("exec", fields{"shell": []byte(script), "timeout_ms": 200})
	if a.result["timed_out"] != true || a.number(t, "exit_code") != 137 || a.number(t, "signal") != 9 {
		t.Fatal(a.result)
	}
	children := strings.Fields(a.stdout.String())
	if !withCgroups {
		children = children[:1] // a process group does not hold what has left it
	}
	for _, pid := range children {
		eventually(t, "child "+pid+" is gone", func() bool { return !alive(pid) })
	}
}

func TestClosingTheConnectionKillsWhatExecStarted(t *testing.T) {
	h := open(t)
	h.request("exec", fields{"shell": []byte("sleep 600 & echo $!; wait")})
	a := &answer{}
	for a.stdout.Len() == 0 {
		h.step(a)
	}
	h.socket.Close()
	eventually(t, "the child is gone", func() bool { return !alive(a.stdout.String()) })
}

func TestStdinIsWindowedAndControlPassesIt(t *testing.T) {
	h := open(t)
	h.request("exec", fields{"argv": argv("sleep", "600"), "stdin": true})
	a := &answer{}
	for a.window == 0 {
		h.step(a)
	}
	if a.window != inputWindow {
		t.Fatal(a.window)
	}
	for range 4 { // the program reads none of it
		h.frame(wire.HostData, make([]byte, inputWindow/4))
	}
	h.message(wire.Control, fields{"kind": "signal", "signal": 15})
	if a = h.answer(); a.number(t, "signal") != 15 {
		t.Fatal(a)
	}
}

func TestMoreInputThanWasGrantedEndsTheConnection(t *testing.T) {
	h := open(t)
	h.request("exec", fields{"argv": argv("sleep", "600"), "stdin": true})
	for range 12 { // the pipe itself takes a quarter
		_, _ = h.socket.Write(wire.Frame(wire.HostData, make([]byte, inputWindow/8)))
	}
	if a := h.answer(); a.failure == nil || a.failure.Code != wire.CodeInvalid {
		t.Fatal(a)
	}
}

func TestStdinOfAnyLengthPassesThrough(t *testing.T) {
	h := open(t)
	const total = 3 << 20
	h.request("exec", fields{"argv": argv("cat"), "stdin": true})
	a := &answer{}
	for sent := 0; sent < total || a.stdout.Len() < total; {
		for sent < total && sent < a.window {
			n := min(40_000, a.window-sent, total-sent)
			h.frame(wire.HostData, bytes.Repeat([]byte{byte(sent)}, n))
			sent += n
		}
		if sent == total {
			h.frame(wire.HostEnd, nil)
			break
		}
		h.step(a)
	}
	for !h.step(a) {
	}
	if a.stdout.Len() != total || a.number(t, "exit_code") != 0 {
		t.Fatal(a.stdout.Len(), a.result)
	}
}

func TestWithoutStdinTheProgramReadsNothing(t *testing.T) {
	if a := open(t).ok("exec", fields{"argv": argv("cat")}); a.stdout.Len() != 0 {
		t.Fatal(a)
	}
}

func TestATerminalHasItsSizeAndIsResized(t *testing.T) {
	h := open(t)
	h.request("exec", fields{
		"shell": []byte(`trap 'stty size; exit' WINCH; stty size; tty; echo $TERM; while :; do sleep 0.05; done`),
		"tty":   fields{"cols": 101, "rows": 33},
	})
	a := &answer{}
	for !strings.Contains(a.stdout.String(), "xterm") {
		h.step(a)
	}
	if !strings.HasPrefix(a.stdout.String(), "33 101\r\n/dev/pts/") {
		t.Fatalf("%q", &a.stdout)
	}
	h.message(wire.Control, fields{"kind": "resize", "cols": 80, "rows": 25})
	for !h.step(a) {
	}
	if !strings.HasSuffix(a.stdout.String(), "25 80\r\n") {
		t.Fatalf("%q", &a.stdout)
	}
}

func TestATerminalTakesInputAndItsEnd(t *testing.T) {
	h := open(t)
	h.request("exec", fields{"argv": argv("cat"), "tty": fields{"cols": 80, "rows": 24}, "stdin": true})
	h.frame(wire.HostData, []byte("line\n"))
	h.frame(wire.HostEnd, nil)
	if a := h.answer(); a.stdout.String() != "line\r\nline\r\n" || a.number(t, "exit_code") != 0 {
		t.Fatal(a)
	}
}

func TestATerminalLosesNothingAtTheEnd(t *testing.T) {
	h := open(t)
	for range 20 {
		a := h.ok("exec", fields{"shell": []byte("seq 1 2000"), "tty": fields{"cols": 80, "rows": 24}})
		if !strings.HasSuffix(a.stdout.String(), "\r\n2000\r\n") || strings.Count(a.stdout.String(), "\n") != 2000 {
			t.Fatalf("%d lines", strings.Count(a.stdout.String(), "\n"))
		}
	}
}

func TestNothingLeaksOverManyExecs(t *testing.T) {
	h := open(t)
	h.sh("true")
	count := func() int { fds, _ := os.ReadDir("/proc/self/fd"); return len(fds) }
	before := count()
	for range 200 {
		h.call("exec", fields{"argv": argv("true")})
		h.call("exec", fields{"argv": argv("no-such-program"), "stdin": true})
		h.call("exec", fields{"argv": argv("true"), "tty": fields{"cols": 1, "rows": 1}})
	}
	eventually(t, "as many descriptors as before", func() bool { return count() <= before+3 })
}

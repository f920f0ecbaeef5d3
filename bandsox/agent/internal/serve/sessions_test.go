package serve

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"bandsox.dev/agent/internal/wire"
)

func (h *host) session(id, script string, more fields) {
	h.t.Helper()
	f := fields{"shell": []byte(script), "detached": true, "session": id}
	for k, v := range more {
		f[k] = v
	}
	h.ok("exec", f)
	h.t.Cleanup(func() {
		if p, err := table.Session(id); err == nil {
			p.Kill()
			eventually(h.t, "the session ends", func() bool { return table.Forget(id) == nil })
		}
	})
}

func TestASessionOutlivesItsConnectionAndIsReplayed(t *testing.T) {
	first := open(t)
	first.session("replay", "echo one; read line; echo $line; echo err >&2", fields{"stdin": true})
	first.request("attach", fields{"session": "replay"})
	a := &answer{}
	for a.stdout.String() != "one\n" {
		first.step(a)
	}
	first.socket.Close()
	second := open(t)
	second.request("input", fields{"session": "replay"})
	second.frame(wire.HostData, []byte("two\n"))
	second.message(wire.HostEnd, fields{"close": true})
	if a := second.answer(); a.number(t, "written") != 4 {
		t.Fatal(a)
	}
	a = second.ok("attach", fields{"session": "replay"})
	if a.stdout.String() != "one\ntwo\n" || a.stderr.String() != "err\n" || a.number(t, "exit_code") != 0 {
		t.Fatal(a)
	}
	a = second.ok("attach", fields{"session": "replay", "stdout": 4, "stderr": 99})
	if a.stdout.String() != "two\n" || a.stderr.Len() != 0 || toInt(a.events[0]["stdout"]) != 4 || toInt(a.events[0]["stderr"]) != 4 {
		t.Fatal(a)
	}
}

func TestASessionKeepsItsLastMebibyte(t *testing.T) {
	h := open(t)
	h.session("tail", "head -c 3000000 /dev/zero | tr '\\0' a; echo end", nil)
	p, _ := table.Session("tail")
	eventually(t, "the session ends", func() bool { return !p.Running() })
	a := h.ok("attach", fields{"session": "tail"})
	from := toInt(a.events[0]["stdout"])
	if from == 0 || from > 3_000_004-1<<20 || a.stdout.Len() != 3_000_004-int(from) || !strings.HasSuffix(a.stdout.String(), "aend\n") {
		t.Fatal(a.events, a.stdout.Len())
	}
}

func TestAProgramWaitsForAnAttachedClientAndGoesOnWithoutIt(t *testing.T) {
	done := filepath.Join(t.TempDir(), "done")
	h := open(t)
	h.session("wait", "read go; head -c 8000000 /dev/zero; echo > "+done, fields{"stdin": true})
	h.request("attach", fields{"session": "wait"})
	h.frame(wire.HostData, []byte("go\n")) // and then read nothing
	other := open(t)
	p, _ := table.Session("wait")
	eventually(t, "the program waits in write", func() bool {
		w, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.Pid, p.Pid))
		if err != nil || len(w) == 0 {
			return false
		}
		where, _ := os.ReadFile("/proc/" + strings.TrimSpace(string(w)) + "/wchan")
		return strings.Contains(string(where), "pipe")
	})
	other.ok("ping", nil)
	if _, err := os.Stat(done); err == nil {
		t.Fatal("the program ran ahead of its client")
	}
	h.socket.Close()
	eventually(t, "the program goes on", func() bool { _, err := os.Stat(done); return err == nil })
}

func TestSeveralClientsOfASessionSeeTheSame(t *testing.T) {
	one, two, three := open(t), open(t), open(t)
	one.session("shared", "read go; seq 1 100000", fields{"stdin": true})
	one.request("attach", fields{"session": "shared", "input": false})
	two.request("attach", fields{"session": "shared", "input": false})
	one.step(&answer{})
	two.step(&answer{})
	if a := three.ok("sessions", nil); toInt(a.result["sessions"].([]any)[0].(fields)["attached"]) != 2 {
		t.Error(a.result)
	}
	three.request("input", fields{"session": "shared"})
	three.frame(wire.HostData, []byte("go\n"))
	three.message(wire.HostEnd, fields{})
	three.answer()
	other := make(chan *answer)
	go func() { other <- two.answer() }()
	a, b := one.answer(), <-other
	if a.stdout.Len() != 588_895 || !bytes.Equal(a.stdout.Bytes(), b.stdout.Bytes()) {
		t.Fatal(a.stdout.Len(), b.stdout.Len())
	}
}

func TestSessionsAreSignalledListedAndForgotten(t *testing.T) {
	h := open(t)
	h.session("sig", "trap 'echo caught; exit 3' TERM; echo up; while :; do sleep 0.02; done", nil)
	h.fails(wire.CodeExists, "exec", fields{"argv": argv("true"), "detached": true, "session": "sig"})
	h.fails(wire.CodeInvalid, "exec", fields{"argv": argv("true"), "detached": true, "session": "a/b"})
	h.fails(wire.CodeNoSuchSession, "attach", fields{"session": "none"})
	h.fails(wire.CodeBusy, "forget", fields{"session": "sig"})
	h.fails(wire.CodeInvalid, "resize", fields{"session": "sig", "cols": 1, "rows": 1})
	h.fails(wire.CodeInvalid, "signal", fields{"session": "sig", "signal": 99})
	watcher := open(t)
	watcher.request("attach", fields{"session": "sig"})
	a := &answer{}
	for a.stdout.String() != "up\n" {
		watcher.step(a)
	}
	h.ok("signal", fields{"session": "sig", "signal": 15})
	for !watcher.step(a) {
	}
	if a.stdout.String() != "up\ncaught\n" || a.number(t, "exit_code") != 3 {
		t.Fatal(a)
	}
	h.fails(wire.CodeNotFound, "signal", fields{"session": "sig", "signal": 15})
	list := h.ok("sessions", nil).result["sessions"].([]any)
	entry := list[0].(fields)
	if len(list) != 1 || entry["running"] != false || toInt(entry["exit_code"]) != 3 || entry["argv"].([]any)[0] != "/bin/sh" {
		t.Fatal(list)
	}
	h.ok("forget", fields{"session": "sig"})
	h.fails(wire.CodeNoSuchSession, "forget", fields{"session": "sig"})
}

func TestOnlyTheLastEndedSessionsAreKept(t *testing.T) {
	h := open(t)
	for i := range 70 {
		id := "old" + strconv.Itoa(i)
		h.ok("exec", fields{"argv": argv("true"), "detached": true, "session": id})
		p, err := table.Session(id)
		if err != nil {
			continue
		}
		eventually(t, "it ends", func() bool { return !p.Running() })
	}
	eventually(t, "64 are left", func() bool { return len(table.Sessions()) == 64 })
	h.fails(wire.CodeNoSuchSession, "attach", fields{"session": "old0"})
	for _, s := range table.Sessions() {
		if err := table.Forget(s.Session); err != nil {
			t.Error(err)
		}
	}
}

package serve

import (
	"bytes"
	"os"
	"testing"
	"time"

	"bandsox.dev/agent/internal/wire"
)

func TestPingAnswersAndTheConnectionCanBeUsedAgain(t *testing.T) {
	h := open(t)
	for range 3 {
		h.ok("ping", nil)
	}
	if h.boot != [16]byte{1, 2, 3} {
		t.Error(h.boot)
	}
}

func TestPaddingIsIgnoredWhereverAFrameMayStart(t *testing.T) {
	h := dial(t, newServer())
	h.raw(make([]byte, 1<<20+5))
	h.hello([32]byte{})
	h.expectWelcome()
	h.raw(make([]byte, 3))
	h.ok("ping", nil)
}

func TestHelloAndTheFirstRequestMayComeTogether(t *testing.T) {
	h := dial(t, newServer())
	var both bytes.Buffer
	p := append([]byte("BANDSOX1"), 0, 1)
	both.Write(wire.Frame(wire.Hello, append(append(p, bytes.Repeat([]byte{7}, 16)...), make([]byte, 32)...)))
	frame, _ := wire.MessageFrame(wire.Request, fields{"op": "ping"})
	both.Write(frame)
	h.raw(both.Bytes())
	h.expectWelcome()
	if a := h.answer(); a.result == nil {
		t.Fatal(a)
	}
}

func TestWelcomeDoesNotWaitForAnOperationThatWaitsForData(t *testing.T) {
	h := dial(t, newServer())
	path := t.TempDir() + "/f"
	p := append([]byte("BANDSOX1"), 0, 1)
	hello := wire.Frame(wire.Hello, append(append(p, bytes.Repeat([]byte{7}, 16)...), make([]byte, 32)...))
	frame, _ := wire.MessageFrame(wire.Request, fields{"op": "write", "path": []byte(path)})
	h.raw(append(hello, frame...))
	h.expectWelcome() // before any DATA
	h.send([]byte("x"))
	if a := h.answer(); a.result == nil {
		t.Fatal(a)
	}
}

func TestHelloInTheMiddleOfAnOperationEndsIt(t *testing.T) {
	h := open(t)
	h.request("exec", fields{"argv": argv("/bin/sh", "-c", "echo $$; exec sleep 600")})
	a := &answer{}
	for a.stdout.Len() == 0 {
		h.step(a)
	}
	h.hello([32]byte{})
	h.expectWelcome()
	h.ok("ping", nil)
	eventually(t, "the process is killed", func() bool { return !alive(a.stdout.String()) })
}

func TestHelloIsAnsweredThoughAnOperationsOutputIsStuck(t *testing.T) {
	h := open(t)
	h.request("read", fields{"path": []byte("/dev/zero"), "length": 1 << 40})
	h.hello([32]byte{}) // nothing has been read: the guest's writer blocks by now or soon
	for {
		ft, p := h.read()
		if ft == wire.Welcome {
			break
		}
		if ft != wire.GuestData {
			t.Fatalf("0x%x %q", ft, p)
		}
	}
	h.ok("ping", nil)
}

func TestTheTokenIsAskedForOnceItWasSet(t *testing.T) {
	server := newServer()
	token := bytes.Repeat([]byte{9}, 32)
	connect(t, server).ok("setup", fields{"token": token})
	right := dial(t, server)
	right.hello([32]byte(token))
	right.expectWelcome()
	right.ok("ping", nil)
	wrong := dial(t, server)
	wrong.hello([32]byte{9})
	wrong.expectWelcome()
	if a := wrong.answer(); a.failure == nil || a.failure.Code != wire.CodeUnauthorized {
		t.Fatal(a)
	}
	if a := wrong.answer(); !a.lost {
		t.Fatal("the connection goes on")
	}
}

func TestAnotherVersionIsToldApart(t *testing.T) {
	h := dial(t, newServer())
	p := append([]byte("BANDSOX1"), 0, 2)
	h.frame(wire.Hello, append(append(p, bytes.Repeat([]byte{7}, 16)...), make([]byte, 32)...))
	h.expectWelcome()
	if a := h.answer(); a.failure == nil || a.failure.Code != wire.CodeUnsupported {
		t.Fatal(a)
	}
}

func TestWhatTheProtocolDoesNotAllowEndsTheConnection(t *testing.T) {
	for name, frame := range map[string][]byte{
		"unknown type":          wire.Frame(0x33, nil),
		"direction":             wire.Frame(wire.Result, []byte{0x80}),
		"length":                {0x02, 0x00, 0x10, 0x00, 0x01},
		"not a map":             wire.Frame(wire.Request, []byte{0x01}),
		"half a map":            wire.Frame(wire.Request, []byte{0x81, 0xa2, 'o', 'p'}),
		"a broken HELLO":        wire.Frame(wire.Hello, bytes.Repeat([]byte("x"), 58)),
		"a HELLO of odd length": wire.Frame(wire.Hello, []byte("BANDSOX1")),
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			h.raw(frame)
			if a := h.answer(); a.failure == nil || a.failure.Code != wire.CodeInvalid {
				t.Fatal(a)
			}
			if a := h.answer(); !a.lost {
				t.Fatal("the connection goes on")
			}
		})
	}
}

func TestDataForAnOperationThatTakesNoneEndsTheConnection(t *testing.T) {
	h := open(t)
	h.request("exec", fields{"argv": argv("sleep", "600")})
	h.step(&answer{})
	h.request("ping", nil) // a second operation while one runs
	if a := h.answer(); a.failure == nil || a.failure.Code != wire.CodeInvalid {
		t.Fatal(a)
	}
}

func TestSilenceBeforeHelloIsNotAnswered(t *testing.T) {
	h := dial(t, newServer())
	h.frame(wire.Request, []byte{0x80})
	if ft, _ := h.read(); ft != 0 {
		t.Fatalf("0x%x", ft)
	}
}

func TestWhatWasUnderWayWhenAnOperationEndedIsIgnored(t *testing.T) {
	h := open(t)
	h.request("write", fields{"path": []byte(t.TempDir())}) // a directory: fails at once
	h.send(bytes.Repeat([]byte("x"), 3<<20))
	h.message(wire.Control, fields{"kind": "cancel"})
	if a := h.answer(); a.failure == nil || a.failure.Code != wire.CodeIsADirectory {
		t.Fatal(a)
	}
	h.ok("ping", nil)
}

func TestCancelEndsAnOperationAndKeepsTheConnection(t *testing.T) {
	h := open(t)
	h.request("exec", fields{"argv": argv("sleep", "600")})
	h.message(wire.Control, fields{"kind": "cancel"})
	if a := h.answer(); a.failure == nil || a.failure.Code != wire.CodeCancelled {
		t.Fatal(a)
	}
	h.ok("ping", nil)
}

func TestASlowReaderDelaysNoOtherConnection(t *testing.T) {
	server := newServer()
	slow, quick := connect(t, server), connect(t, server)
	slow.request("exec", fields{"shell": []byte("head -c 20000000 /dev/zero")})
	for range 20 {
		quick.ok("ping", nil)
	}
	if a := slow.answer(); a.stdout.Len() != 20_000_000 {
		t.Fatalf("%d bytes, %v %v %s", a.stdout.Len(), a.result, a.failure, &a.stderr)
	}
}

func TestUnknownOperationsAreUnsupported(t *testing.T) {
	open(t).fails(wire.CodeUnsupported, "levitate", nil)
}

func TestFieldsOfTheWrongTypeAreInvalid(t *testing.T) {
	h := open(t)
	h.fails(wire.CodeInvalid, "exec", fields{"argv": 7})
	h.fails(wire.CodeInvalid, "stat", fields{"path": []byte("relative")})
	h.fails(wire.CodeInvalid, "stat", fields{})
	h.ok("ping", nil)
}

func TestInfoAndMetricsDescribeTheMachine(t *testing.T) {
	h := open(t)
	info := h.ok("info", nil).result
	if info["agent"] != "test" || info["transport"] != "unix" || info["arch"] == "" {
		t.Error(info)
	}
	if d := info["time"].(float64) - float64(time.Now().UnixMicro())/1e6; d > 5 || d < -5 {
		t.Error(info["time"])
	}
	m := h.ok("metrics", fields{"processes": true})
	memory := m.result["memory"].(fields)
	if memory["total"].(uint64) < 1<<20 && memory["available"] == nil {
		t.Error(memory)
	}
	self := false
	for _, entry := range m.result["process_list"].([]any) {
		if e := entry.(fields); toInt(e["pid"]) == int64(os.Getpid()) {
			self = toInt(e["rss"]) > 1<<20 && len(e["argv"].([]any)) > 0
		}
	}
	if !self || m.number(t, "processes") < 2 {
		t.Error("the list does not have this process")
	}
}

func toInt(v any) int64 {
	switch n := v.(type) {
	case int64:
		return n
	case uint64:
		return int64(n)
	}
	return -1
}

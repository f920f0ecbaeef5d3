package serve

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"bandsox.dev/agent/internal/machine"
	"bandsox.dev/agent/internal/process"
	"bandsox.dev/agent/internal/transport"
	"bandsox.dev/agent/internal/wire"

	"github.com/cespare/xxhash/v2"
	"github.com/vmihailenco/msgpack/v5"
	"golang.org/x/sys/unix"
)

// table is shared by all tests: a process has one reaper. It uses real cgroups where the machine
// that runs the tests lets it, and process groups where not.
var (
	table       *process.Table
	withCgroups bool
)

func TestMain(m *testing.M) {
	var groups *process.Groups
	var dir string
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		dir = filepath.Join(root, "bandsox-agent-test-"+strconv.Itoa(os.Getpid()))
		if g, err := process.NewGroups(dir); err == nil {
			groups, withCgroups = g, true
			break
		}
		os.Remove(dir)
	}
	table = process.NewTable(groups)
	code := m.Run()
	removeGroups(dir)
	os.Exit(code)
}

func removeGroups(dir string) {
	entries, _ := filepath.Glob(dir + "/[0-9]*")
	for _, entry := range entries {
		os.Remove(entry)
	}
	os.Remove(dir)
}

// host is a host's end of a connection to a real server.
type host struct {
	t      *testing.T
	server *Server
	socket *os.File
	boot   [16]byte
}

func newServer() *Server {
	return &Server{
		Version: "test", Transport: "unix", BootID: [16]byte{1, 2, 3}, Machine: &machine.Machine{},
		Processes: table, Shutdown: func(wire.ShutdownRequest) {},
	}
}

// dial connects to the server without a HELLO.
func dial(t *testing.T, server *Server) *host {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, server: server, socket: os.NewFile(uintptr(fds[0]), "host")}
	done := make(chan struct{})
	go func() {
		server.Serve(transport.NewSocket(fds[1]))
		close(done)
	}()
	t.Cleanup(func() {
		h.socket.Close()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("the server did not notice that the host has gone")
		}
	})
	h.socket.SetDeadline(time.Now().Add(30 * time.Second))
	return h
}

// connect dials and greets.
func connect(t *testing.T, server *Server) *host {
	t.Helper()
	h := dial(t, server)
	h.hello([32]byte{})
	h.expectWelcome()
	return h
}

func open(t *testing.T) *host { return connect(t, newServer()) }

func (h *host) hello(token [32]byte) {
	p := append([]byte("BANDSOX1"), 0, 1)
	p = append(p, bytes.Repeat([]byte{7}, 16)...)
	h.frame(wire.Hello, append(p, token[:]...))
}

func (h *host) expectWelcome() {
	h.t.Helper()
	ft, p := h.read()
	if ft != wire.Welcome || len(p) != 42 || p[10] != 7 {
		h.t.Fatalf("no WELCOME but 0x%x %q", ft, p)
	}
	copy(h.boot[:], p[26:])
}

func (h *host) raw(b []byte) {
	h.t.Helper()
	if _, err := h.socket.Write(b); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) frame(ft wire.Type, payload []byte) { h.t.Helper(); h.raw(wire.Frame(ft, payload)) }

func (h *host) message(ft wire.Type, message any) {
	h.t.Helper()
	p, err := msgpack.Marshal(message)
	if err != nil {
		h.t.Fatal(err)
	}
	h.frame(ft, p)
}

type fields = map[string]any

func (h *host) request(op string, f fields) {
	h.t.Helper()
	m := fields{"op": op}
	for k, v := range f {
		m[k] = v
	}
	h.message(wire.Request, m)
}

// read returns the next frame; type 0 when the connection has ended.
func (h *host) read() (wire.Type, []byte) {
	h.t.Helper()
	var head [wire.HeaderSize]byte
	if _, err := io.ReadFull(h.socket, head[:]); err != nil {
		if os.IsTimeout(err) {
			h.t.Fatal("no frame came")
		}
		return 0, nil
	}
	p := make([]byte, binary.BigEndian.Uint32(head[1:]))
	if _, err := io.ReadFull(h.socket, p); err != nil {
		return 0, nil
	}
	return wire.Type(head[0]), p
}

// answer is everything up to a RESULT or ERROR.
type answer struct {
	result  fields
	failure *wire.Failure
	stdout  bytes.Buffer // or file contents
	stderr  bytes.Buffer
	events  []fields
	window  int
	lost    bool
}

func (h *host) answer() *answer {
	h.t.Helper()
	a := &answer{}
	for !h.step(a) {
	}
	return a
}

// step takes one frame and tells whether the operation has ended.
func (h *host) step(a *answer) bool {
	h.t.Helper()
	ft, p := h.read()
	switch ft {
	case 0:
		a.lost = true
		return true
	case wire.GuestData:
		a.stdout.Write(p)
	case wire.Stderr:
		a.stderr.Write(p)
	case wire.Window:
		a.window += int(binary.BigEndian.Uint32(p))
	case wire.Event:
		a.events = append(a.events, decode(h.t, p))
	case wire.GuestEnd:
		var end wire.End
		if err := wire.Decode(p, &end); err != nil || *end.Size != uint64(a.stdout.Len()) || *end.XXH64 != xxhash.Sum64(a.stdout.Bytes()) {
			h.t.Errorf("END %+v after %d bytes: %v", end, a.stdout.Len(), err)
		}
	case wire.Result:
		a.result = decode(h.t, p)
		return true
	case wire.Error:
		a.failure = &wire.Failure{}
		if err := wire.Decode(p, a.failure); err != nil {
			h.t.Fatal(err)
		}
		return true
	default:
		h.t.Fatalf("frame 0x%x", ft)
	}
	return false
}

func decode(t *testing.T, p []byte) fields {
	t.Helper()
	m := fields{}
	d := msgpack.NewDecoder(bytes.NewReader(p))
	d.UseLooseInterfaceDecoding(true) // int64, uint64 or float64, whatever the width
	if err := d.Decode(&m); err != nil {
		t.Fatal(err)
	}
	return m
}

func (h *host) call(op string, f fields) *answer {
	h.t.Helper()
	h.request(op, f)
	return h.answer()
}

// ok calls and expects a RESULT.
func (h *host) ok(op string, f fields) *answer {
	h.t.Helper()
	a := h.call(op, f)
	if a.failure != nil || a.lost {
		h.t.Fatalf("%s: %v (lost: %v)", op, a.failure, a.lost)
	}
	return a
}

// fails calls and expects an ERROR with this code.
func (h *host) fails(code, op string, f fields) *wire.Failure {
	h.t.Helper()
	a := h.call(op, f)
	if a.failure == nil || a.failure.Code != code {
		h.t.Fatalf("%s %v: %v instead of ERROR %s", op, f, a, code)
	}
	return a.failure
}

func (h *host) sh(script string) *answer {
	h.t.Helper()
	return h.ok("exec", fields{"shell": []byte(script)})
}

// send uploads content for the operation that was requested.
func (h *host) send(content []byte) {
	h.t.Helper()
	for rest := content; len(rest) > 0; {
		n := min(len(rest), 100_000)
		h.frame(wire.HostData, rest[:n])
		rest = rest[n:]
	}
	h.message(wire.HostEnd, fields{"size": len(content), "xxh64": xxhash.Sum64(content)})
}

func argv(args ...string) [][]byte {
	out := make([][]byte, len(args))
	for i, a := range args {
		out[i] = []byte(a)
	}
	return out
}

func (a *answer) number(t *testing.T, key string) int64 {
	t.Helper()
	switch n := a.result[key].(type) {
	case int64:
		return n
	case uint64:
		return int64(n)
	}
	t.Fatalf("%s is %v in %v", key, a.result[key], a.result)
	return 0
}

// eventually waits for something outside the connection that tells of itself no other way.
func eventually(t *testing.T, what string, true_ func() bool) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for !true_() {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// alive tells whether a process runs, zombies not counted.
func alive(pid string) bool {
	stat, err := os.ReadFile("/proc/" + strings.TrimSpace(pid) + "/stat")
	if err != nil {
		return false
	}
	after := stat[bytes.LastIndexByte(stat, ')')+1:]
	return !bytes.HasPrefix(after, []byte(" Z"))
}

// runs tells whether a process with these arguments runs.
func runs(args ...string) bool {
	found, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range found {
		if line, err := os.ReadFile(file); err == nil && string(line) == strings.Join(args, "\x00")+"\x00" {
			return true
		}
	}
	return false
}

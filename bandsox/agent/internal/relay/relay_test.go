package relay

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"bandsox.dev/agent/internal/line"
)

// bench is a relay with a socket, and the guest at the other end of real pipes.
type bench struct {
	socket  string
	toHost  *os.File
	toGuest *os.File
	atGuest *os.File
}

func newBench(t *testing.T, log func([]byte)) *bench {
	t.Helper()
	fromGuest, toHost := pipe(t)
	atGuest, toGuest := pipe(t)
	b := &bench{filepath.Join(t.TempDir(), "s"), toHost, toGuest, atGuest}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: b.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	host := line.New(line.Host, fromGuest, toGuest, log, false)
	go func() { _ = host.Run() }()
	served := make(chan struct{})
	go func() { defer close(served); _ = Serve(listener, host) }()
	t.Cleanup(func() {
		listener.Close()
		toHost.Close()
		toGuest.Close()
		<-served
	})
	return b
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// boot starts the guest, which does work with every stream.
func (b *bench) boot(work func(*line.Stream)) {
	guest := line.New(line.Guest, b.atGuest, b.toHost, func([]byte) {}, false)
	go func() { _ = guest.Run() }()
	go func() {
		for {
			stream, err := guest.Accept()
			if err != nil {
				return
			}
			go work(stream)
		}
	}()
}

func echo(stream *line.Stream) {
	_, _ = io.Copy(stream, stream)
	stream.Close()
}

func (b *bench) dial(t *testing.T, greeting string) *net.UnixConn {
	t.Helper()
	client, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: b.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if _, err := io.WriteString(client, greeting); err != nil {
		t.Fatal(err)
	}
	return client
}

// answered reads "OK <n>".
func answered(t *testing.T, client io.Reader) *bufio.Reader {
	t.Helper()
	reader := bufio.NewReader(client)
	var n int
	if got, err := reader.ReadString('\n'); err != nil {
		t.Fatal(err)
	} else if _, err := fmt.Sscanf(got, "OK %d\n", &n); err != nil {
		t.Fatalf("%q", got)
	}
	return reader
}

func TestClientsTransferAtOnce(t *testing.T) {
	b := newBench(t, func([]byte) {})
	b.boot(echo)
	var group sync.WaitGroup
	for i := range 2 * line.MaxStreams { // more than are served at once
		client := b.dial(t, "CONNECT 1024\nearly")
		group.Add(1)
		go func() {
			defer group.Done()
			content := make([]byte, 20_000)
			source := rand.NewChaCha8([32]byte{byte(i)})
			_, _ = source.Read(content)
			go func() {
				_, _ = client.Write(content)
				_ = client.CloseWrite()
			}()
			got, err := io.ReadAll(answered(t, client))
			if err != nil || sha256.Sum256(got) != sha256.Sum256(append([]byte("early"), content...)) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			client.Close()
		}()
	}
	group.Wait()
}

func TestAClientWaitsForAGuestThatBoots(t *testing.T) {
	b := newBench(t, func([]byte) {})
	client := b.dial(t, "CONNECT 1024\nhello")
	b.boot(echo)
	got := make([]byte, 5)
	if _, err := io.ReadFull(answered(t, client), got); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestWhatIsNoGreetingIsClosed(t *testing.T) {
	b := newBench(t, func([]byte) {})
	b.boot(echo)
	for _, greeting := range []string{
		"\n", "CONNECT\n", "CONNECT x\n", "CONNECT -1\n", "CONNECT 4294967296\n", "connect 1\n", "CONNECT 1 \n",
		strings.Repeat("A", 5000),
	} {
		got, err := io.ReadAll(b.dial(t, greeting))
		if len(got) != 0 {
			t.Errorf("%q: %q, %v", greeting, got, err)
		}
	}
}

func TestAGuestThatRefusesIsAnEndWithoutAByte(t *testing.T) {
	b := newBench(t, func([]byte) {})
	b.boot(func(s *line.Stream) { s.Reset() })
	client := b.dial(t, "CONNECT 1024\n")
	if got, _ := io.ReadAll(client); len(got) > len("OK 1\n") {
		t.Errorf("%q", got)
	}
}

func TestTheEndOfAClientReachesTheGuest(t *testing.T) {
	b := newBench(t, func([]byte) {})
	ended := make(chan error, 1)
	b.boot(func(s *line.Stream) {
		_, err := io.Copy(io.Discard, s)
		ended <- err
		s.Close()
	})
	client := b.dial(t, "CONNECT 1024\n")
	answered(t, client)
	client.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestAClientThatLeavesStopsAGuestThatSends(t *testing.T) {
	b := newBench(t, func([]byte) {})
	stopped := make(chan struct{})
	b.boot(func(s *line.Stream) {
		defer close(stopped)
		for {
			if _, err := s.Write(make([]byte, 1000)); err != nil {
				return
			}
		}
	})
	client := b.dial(t, "CONNECT 1024\n")
	if _, err := io.ReadFull(answered(t, client), make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	client.Close()
	<-stopped
}

// small is a file that holds so many bytes.
type small struct {
	bytes.Buffer
	room int
}

func (s *small) Write(p []byte) (int, error) {
	n, _ := s.Buffer.Write(p[:min(len(p), s.room-s.Len())])
	if n < len(p) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

func TestTheLogKeepsTheBeginning(t *testing.T) {
	for _, c := range []struct {
		file int
		room int64
	}{{10, 1000}, {1000, 10}} {
		file := &small{room: c.file}
		print := Log(file, c.room)
		for _, text := range []string{"before", " and more", "after"} {
			print([]byte(text))
		}
		if file.String() != "before and" {
			t.Errorf("%+v: %q", c, file.String())
		}
	}
}

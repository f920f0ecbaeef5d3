package line

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"
)

// wire is one direction of a serial line: what is written comes out, unless spoil changes it.
type wire struct {
	mu      sync.Mutex
	changed sync.Cond
	bytes   []byte
	closed  bool
	held    bool
	spoil   func([]byte) []byte
}

// wireSize is what a pipe holds.
const wireSize = 64 << 10

func newWire(spoil func([]byte) []byte) *wire {
	w := &wire{spoil: spoil}
	w.changed.L = &w.mu
	return w
}

func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.bytes) > wireSize && !w.closed {
		w.changed.Wait()
	}
	if w.closed {
		return 0, io.ErrClosedPipe
	}
	n := len(p)
	if w.spoil != nil {
		p = w.spoil(bytes.Clone(p))
	}
	w.bytes = append(w.bytes, p...)
	w.changed.Broadcast()
	return n, nil
}

func (w *wire) Read(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.bytes) == 0 || w.held {
		if w.closed {
			return 0, io.EOF
		}
		w.changed.Wait()
	}
	n := copy(p, w.bytes)
	w.bytes = w.bytes[n:]
	w.changed.Broadcast()
	return n, nil
}

func (w *wire) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
	w.changed.Broadcast()
}

func (w *wire) close()       { w.set(func() { w.closed = true }) }
func (w *wire) hold(on bool) { w.set(func() { w.held = on }) }

// pair is a host and a guest on one line.
type pair struct {
	host, guest     *Line
	toGuest, toHost *wire
}

func newPair(t *testing.T, toGuest, toHost func([]byte) []byte) *pair {
	t.Helper()
	p := &pair{toGuest: newWire(toGuest), toHost: newWire(toHost)}
	p.guest = New(Guest, p.toGuest, p.toHost, func([]byte) {}, false)
	go func() { _ = p.guest.Run() }()
	p.startHost(false)
	t.Cleanup(func() {
		p.toGuest.close()
		p.toHost.close()
	})
	return p
}

func (p *pair) startHost(resume bool) {
	p.host = New(Host, p.toHost, p.toGuest, func([]byte) {}, resume)
	host := p.host
	go func() { _ = host.Run() }()
}

// open makes a stream and returns both of its ends.
func (p *pair) open(t *testing.T) (host, guest *Stream) {
	t.Helper()
	host, err := p.host.Open(1024)
	if err != nil {
		t.Fatal(err)
	}
	if guest, err = p.guest.Accept(); err != nil {
		t.Fatal(err)
	}
	if !host.Accepted() || guest.Port() != 1024 || guest.ID() != host.ID() {
		t.Fatal("the stream was not opened")
	}
	return host, guest
}

func content(size int, seed uint64) []byte {
	b := make([]byte, size)
	source := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = source.Read(b)
	for i := range min(size, 256) {
		b[i] = byte(i)
	}
	return b
}

func send(t *testing.T, s *Stream, b []byte) {
	t.Helper()
	if _, err := s.Write(b); err != nil {
		t.Error("write:", err)
	}
	s.CloseWrite()
}

// receive checks that exactly want comes.
func receive(t *testing.T, s *Stream, want []byte) {
	t.Helper()
	got, err := io.ReadAll(s)
	if err != nil || sha256.Sum256(got) != sha256.Sum256(want) {
		t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
	}
}

// exchange sends size bytes both ways on one new stream.
func (p *pair) exchange(t *testing.T, size int) {
	t.Helper()
	host, guest := p.open(t)
	p.exchangeOn(t, host, guest, size)
}

func (p *pair) exchangeOn(t *testing.T, host, guest *Stream, size int) {
	t.Helper()
	there, back := content(size, 1), content(size, 2)
	var group sync.WaitGroup
	for _, work := range []func(){
		func() { send(t, host, there) },
		func() { send(t, guest, back) },
		func() { receive(t, guest, there) },
		func() { receive(t, host, back) },
	} {
		group.Add(1)
		go func() { defer group.Done(); work() }()
	}
	group.Wait()
}

func TestBytesOfEveryValueBothWays(t *testing.T) {
	newPair(t, nil, nil).exchange(t, 3<<20)
}

func TestManyStreamsAtOnce(t *testing.T) {
	p := newPair(t, nil, nil)
	var group sync.WaitGroup
	for range MaxStreams {
		host, guest := p.open(t)
		group.Add(1)
		go func() { defer group.Done(); p.exchangeOn(t, host, guest, 50_000) }()
	}
	group.Wait()
	p.exchange(t, 1000) // and their places are free again
}

// unreliable loses, changes and cuts bytes, and prints between them.
func unreliable(seed uint64) func([]byte) []byte {
	source := rand.New(rand.NewPCG(seed, seed))
	return func(p []byte) []byte {
		switch at := source.IntN(len(p)); source.IntN(60) {
		case 0:
			return nil
		case 1:
			return p[:at]
		case 2:
			p[at] ^= byte(1 + source.IntN(255))
		case 3:
			return append(append(bytes.Clone(p[:at]), "ünïcödé from a program\n"...), p[at:]...)
		case 4, 5, 6:
			return append(append(bytes.Clone(p[:at]), "[    1.0] a kernel message\r\n"...), p[at:]...)
		}
		return p
	}
}

func TestALineThatLosesAndChangesBytesCarriesEveryOne(t *testing.T) {
	p := newPair(t, unreliable(1), unreliable(2))
	p.exchange(t, 300_000)
}

func TestATailThatIsLostIsSentAgain(t *testing.T) {
	p := newPair(t, nil, nil)
	host, guest := p.open(t)
	lost := 0
	p.toGuest.set(func() {
		p.toGuest.spoil = func(b []byte) []byte {
			if len(b) > 25 && lost < 3 { // records, and not what acknowledges them
				lost++
				return nil
			}
			return b
		}
	})
	p.exchangeOn(t, host, guest, 1000)
	if lost != 3 {
		t.Error("nothing was lost")
	}
}

func TestAReaderThatDoesNotReadStopsItsOwnStreamOnly(t *testing.T) {
	p := newPair(t, nil, nil)
	slowHost, slowGuest := p.open(t)
	big := content(1<<20, 3)
	var group sync.WaitGroup
	group.Add(2)
	go func() { defer group.Done(); send(t, slowGuest, big) }()
	go func() { defer group.Done(); send(t, slowHost, big) }()
	for range 20 {
		p.exchange(t, 100_000)
	}
	for _, l := range []*Line{p.host, p.guest} {
		l.mu.Lock()
		for _, s := range l.streams {
			if len(s.received) > creditSize || len(s.send) > sendSize {
				t.Errorf("%d bytes received, %d to send", len(s.received), len(s.send))
			}
		}
		l.mu.Unlock()
	}
	receive(t, slowHost, big)
	receive(t, slowGuest, big)
	group.Wait()
}

func TestHalfCloses(t *testing.T) {
	p := newPair(t, nil, nil)
	host, guest := p.open(t)
	send(t, host, []byte("question"))
	receive(t, guest, []byte("question"))
	answer := content(100_000, 4)
	go send(t, guest, answer)
	receive(t, host, answer)
	awaitStreams(t, p, 0)
}

func TestCloseDeliversWhatWasWritten(t *testing.T) {
	p := newPair(t, nil, nil)
	host, guest := p.open(t)
	if _, err := guest.Write([]byte("last words")); err != nil {
		t.Fatal(err)
	}
	guest.Close()
	if _, err := guest.Write([]byte("more")); err == nil {
		t.Error("written after the end")
	}
	receive(t, host, []byte("last words"))
	if _, err := host.Write([]byte("too late")); err == nil {
		t.Error("written to somebody who does not read")
	}
	awaitStreams(t, p, 0)
}

func TestAResetEndsBothSidesAtOnce(t *testing.T) {
	p := newPair(t, nil, nil)
	host, guest := p.open(t)
	if _, err := guest.Write(content(sendSize, 5)); err != nil {
		t.Fatal(err)
	}
	host.Reset()
	if _, err := io.ReadAll(guest); !errors.Is(err, ErrReset) {
		t.Error(err)
	}
	if _, err := io.ReadAll(host); !errors.Is(err, ErrReset) {
		t.Error(err)
	}
	awaitStreams(t, p, 0)
	p.exchange(t, 10)
}

func TestMoreStreamsThanThereMayBe(t *testing.T) {
	p := newPair(t, nil, nil)
	for range MaxStreams {
		p.open(t)
	}
	if _, err := p.host.Open(1024); err == nil {
		t.Error("one more")
	}
}

func TestARelayThatIsStartedAgainBeginsANewSession(t *testing.T) {
	p := newPair(t, nil, nil)
	_, guest := p.open(t)
	go func() { _, _ = guest.Write(content(1<<20, 6)) }()
	old := p.toHost
	p.toHost = newWire(nil)
	p.guest.mu.Lock()
	p.guest.out = p.toHost
	p.guest.mu.Unlock()
	old.close() // the first relay has died, perhaps in the middle of a frame
	_, _ = p.toGuest.Write([]byte{0x1e, 0x85, 0x93})
	p.startHost(true)
	host, err := p.host.Open(1024)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(guest); !errors.Is(err, ErrReset) {
		t.Error(err)
	}
	next, err := p.guest.Accept()
	if err != nil {
		t.Fatal(err)
	}
	p.exchangeOn(t, host, next, 100_000)
}

func TestAGuestThatHasForgottenTheSessionGetsANewOne(t *testing.T) {
	p := newPair(t, nil, nil)
	host, _ := p.open(t)
	p.guest.mu.Lock() // as a machine that is restored from a snapshot
	p.guest.drop()
	p.guest.session = 0
	p.guest.announce()
	p.guest.mu.Unlock()
	if _, err := io.ReadAll(host); !errors.Is(err, ErrReset) {
		t.Error(err)
	}
	p.exchange(t, 1000)
}

func TestAHostWaitsForAGuestThatBoots(t *testing.T) {
	toGuest, toHost := newWire(nil), newWire(nil)
	host := New(Host, toHost, toGuest, func([]byte) {}, false)
	ended := make(chan error)
	go func() { ended <- host.Run() }()
	gone, err := host.Open(1024)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := host.Open(1024)
	if err != nil {
		t.Fatal(err)
	}
	gone.Reset() // a client that does not wait so long: the guest never hears of it
	if len(toGuest.bytes) != 0 {
		t.Error("something was sent to a terminal that echoes")
	}
	guest := New(Guest, toGuest, toHost, func([]byte) {}, false)
	go func() { _ = guest.Run() }()
	other, err := guest.Accept()
	if err != nil || other.ID() != stream.ID() {
		t.Fatal(other, err)
	}
	send(t, stream, []byte("here"))
	receive(t, other, []byte("here"))
	toHost.close()
	if err := <-ended; err != io.EOF {
		t.Error(err)
	}
	if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, ErrReset) {
		t.Error(err)
	}
	toGuest.close()
}

func TestAPausedMachineLosesNothing(t *testing.T) {
	p := newPair(t, nil, nil)
	host, guest := p.open(t)
	p.toGuest.hold(true)
	timer := time.AfterFunc(leastPatience+leastPatience/2, func() { p.toGuest.hold(false) }) // past the first patience
	defer timer.Stop()
	p.exchangeOn(t, host, guest, 100_000)
}

// awaitStreams waits until so many streams are known to both sides.
func awaitStreams(t *testing.T, p *pair, want int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		counts := make([]int, 0, 2)
		for _, l := range []*Line{p.host, p.guest} {
			l.mu.Lock()
			counts = append(counts, len(l.streams))
			l.mu.Unlock()
		}
		if counts[0] == want && counts[1] == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("streams:", fmt.Sprint(counts))
		}
	}
}

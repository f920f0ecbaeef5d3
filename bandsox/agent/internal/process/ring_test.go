package process

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func newRing() *ring { return &ring{space: func() {}} }

// fill writes what there is room for, as the reader of a pipe does.
func (r *ring) fill(p []byte) int {
	n := copy(r.reserve(), p)
	r.commit(n)
	return n
}

func TestARingGivesBackEveryByteInAnyRhythm(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	r := newRing()
	c := r.attach(0, make(chan struct{}, 1))
	var in, out bytes.Buffer
	for in.Len() < 5<<20 {
		p := make([]byte, random.IntN(100_000))
		for i := range p {
			p[i] = byte(random.Uint32())
		}
		in.Write(p[:r.fill(p)])
		got := make([]byte, random.IntN(90_000))
		out.Write(got[:c.read(got)])
	}
	for rest := make([]byte, 4096); ; {
		n := c.read(rest)
		if n == 0 {
			break
		}
		out.Write(rest[:n])
	}
	if !bytes.Equal(in.Bytes(), out.Bytes()) {
		t.Fatal("not what was written")
	}
}

func TestAFullRingWaitsForItsSlowestReader(t *testing.T) {
	r := newRing()
	freed := 0
	r.space = func() { freed++ }
	slow := r.attach(0, make(chan struct{}, 1))
	quick := r.attach(0, make(chan struct{}, 1))
	block := make([]byte, readSize)
	for r.fill(block) > 0 {
		for quick.read(block) > 0 {
		}
	}
	if r.end != ringLimit || r.start != 0 {
		t.Fatal(r.start, r.end)
	}
	if freed = 0; slow.read(block) == 0 || freed == 0 {
		t.Fatal("nobody is told that there is room again")
	}
	if r.fill(block) == 0 {
		t.Fatal("still full")
	}
}

func TestWithoutReadersTheOldestBytesGiveWay(t *testing.T) {
	r := newRing()
	block := make([]byte, readSize)
	for r.end < 10<<20 {
		if r.fill(block) == 0 {
			t.Fatal("full without a reader")
		}
		if r.end-r.start < min(r.end, kept) {
			t.Fatalf("only %d bytes are kept of %d", r.end-r.start, r.end)
		}
	}
	if c := r.attach(5, nil); c.offset != r.start {
		t.Fatal(c.offset)
	}
}

func TestAnEmptiedRingHasNothingAndTakesNoMemory(t *testing.T) {
	r := newRing()
	r.fill([]byte("output"))
	r.close()
	c := r.attach(0, make(chan struct{}, 1))
	if r.empty(); c.read(make([]byte, 9)) != 6 {
		t.Fatal("taken from somebody who was reading it")
	}
	c.detach()
	r.empty()
	late := r.attach(0, make(chan struct{}, 1))
	if _, ended := late.state(); r.size() != 0 || late.offset != 6 || !ended {
		t.Fatal(r.size(), late.offset, ended)
	}
}

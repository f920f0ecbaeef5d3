package filter

import (
	"bytes"
	"io"
	"slices"
)

const sieveBuffer = 32 << 10

// swap is a text, and what takes its place.
type swap struct{ text, by []byte }

func (s swap) reversed() swap { return swap{s.by, s.text} }

// masked hides a text without changing how long the whole is.
func (s swap) masked() swap { return swap{s.text, bytes.Repeat([]byte("*"), len(s.text))} }

// swapped is a text with all swaps made.
func swapped(text string, swaps []swap) string {
	whole, _ := swapIn(nil, []byte(text), swaps, true)
	return string(whole)
}

// swapIn appends data to out with swaps made, and returns what is left: the end of data that may be the beginning of a text, where more follows.
func swapIn(out, data []byte, swaps []swap, last bool) (made, rest []byte) {
	for {
		begun := len(data)
		if !last {
			begun -= beginning(data, swaps)
		}
		at, found := first(data, swaps)
		if at < 0 || at >= begun {
			return append(out, data[:begun]...), data[begun:]
		}
		out = append(append(out, data[:at]...), found.by...)
		data = data[at+len(found.text):]
	}
}

// first is the earliest text, and of several there the longest.
func first(data []byte, swaps []swap) (at int, found swap) {
	at = -1
	for _, s := range swaps {
		i := bytes.Index(data, s.text)
		if i >= 0 && (at < 0 || i < at || i == at && len(s.text) > len(found.text)) {
			at, found = i, s
		}
	}
	return at, found
}

// beginning is how long the longest end of data is that a text may begin with.
func beginning(data []byte, swaps []swap) int {
	longest := 0
	for _, s := range swaps {
		for n := min(len(data), len(s.text)-1); n > longest; n-- {
			if bytes.HasPrefix(s.text, data[len(data)-n:]) {
				longest = n
			}
		}
	}
	return longest
}

// sieve is a body with swaps made while it is read. It holds back no more than may be the beginning of a text.
type sieve struct {
	from  io.ReadCloser
	swaps []swap
	ended func() // called once, at the end

	buffer []byte
	held   []byte // read, and not yet looked through
	ready  []byte // to be given
	err    error
}

func newSieve(from io.ReadCloser, swaps []swap, ended func()) *sieve {
	return &sieve{from: from, swaps: swaps, ended: ended}
}

func (s *sieve) Read(into []byte) (int, error) {
	for len(s.ready) == 0 && s.err == nil {
		s.fill()
	}
	if len(s.ready) == 0 {
		return 0, s.err
	}
	n := copy(into, s.ready)
	s.ready = s.ready[n:]
	return n, nil
}

func (s *sieve) fill() {
	if s.buffer == nil {
		s.buffer = make([]byte, sieveBuffer)
	}
	n, err := s.from.Read(s.buffer)
	data := slices.Concat(s.held, s.buffer[:n])
	s.ready, s.held = swapIn(s.ready[:0], data, s.swaps, err != nil)
	if s.err = err; err != nil && s.ended != nil {
		s.ended()
	}
}

// Close closes what it reads from.
func (s *sieve) Close() error { return s.from.Close() }

package filter

import (
	"bytes"
	"io"
	"math/rand"
	"strings"
	"testing"
	"testing/iotest"
)

var swaps = []swap{{[]byte("abcabd"), []byte("X")}, {[]byte("needle"), []byte("longer than before")}, {[]byte("need"), []byte("")}}

func TestABodyIsTheSameHoweverItComesInPieces(t *testing.T) {
	random := rand.New(rand.NewSource(5))
	pieces := []string{"abc", "abcabd", "abcab", "need", "needl", "needle", "n", "e", "x"}
	for range 2000 {
		var text strings.Builder
		for range random.Intn(20) {
			text.WriteString(pieces[random.Intn(len(pieces))])
		}
		want := swapped(text.String(), swaps)
		for _, reader := range []io.Reader{
			strings.NewReader(text.String()), iotest.OneByteReader(strings.NewReader(text.String())),
			iotest.HalfReader(strings.NewReader(text.String())), iotest.DataErrReader(strings.NewReader(text.String())),
		} {
			ends := 0
			got, err := io.ReadAll(newSieve(io.NopCloser(reader), swaps, func() { ends++ }))
			if err != nil || string(got) != want || ends != 1 {
				t.Fatalf("%q: %q, not %q; %v, %d ends", text.String(), got, want, err, ends)
			}
		}
	}
}

func TestTheLongestTextThatBeginsFirstIsSwapped(t *testing.T) {
	for text, want := range map[string]string{
		"needles": "longer than befores", "needs": "s", "abcabcabd": "abcX", "abcabdabcabd": "XX", "nneedleneed": "nlonger than before",
	} {
		if got := swapped(text, swaps); got != want {
			t.Errorf("%q: %q, not %q", text, got, want)
		}
	}
}

func TestNothingIsHeldBackThatBeginsNoText(t *testing.T) {
	from, to := io.Pipe()
	body := newSieve(from, swaps, nil)
	go func() {
		_, _ = io.WriteString(to, "hello")
		_, _ = io.WriteString(to, "a nee")
	}()
	buffer := make([]byte, 64)
	for _, want := range []string{"hello", "a "} {
		if n, err := body.Read(buffer); err != nil || string(buffer[:n]) != want {
			t.Fatalf("%q %v", buffer[:n], err)
		}
	}
	go func() { _, _ = io.WriteString(to, "t") }()
	if n, err := body.Read(buffer); err != nil || string(buffer[:n]) != "neet" {
		t.Fatalf("%q %v", buffer[:n], err)
	}
}

func TestABodyThatBreaksOffSaysSo(t *testing.T) {
	body := newSieve(io.NopCloser(iotest.TimeoutReader(iotest.OneByteReader(bytes.NewReader([]byte("ne"))))), swaps, nil)
	if got, err := io.ReadAll(body); err != iotest.ErrTimeout || string(got) != "n" {
		t.Fatal(string(got), err)
	}
}

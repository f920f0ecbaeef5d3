package armour

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"os"
	"testing"
)

// listener records what a Decoder finds.
type listener struct {
	text   []byte
	frames [][]byte
	broken int
}

func (l *listener) decoder() *Decoder {
	return &Decoder{
		Text:   func(p []byte) { l.text = append(l.text, p...) },
		Frame:  func(p []byte) { l.frames = append(l.frames, bytes.Clone(p)) },
		Broken: func() { l.broken++ },
	}
}

func everyByte() []byte {
	body := make([]byte, 256)
	for i := range body {
		body[i] = byte(i)
	}
	return body
}

func TestAFrameOfAnySizeComesBack(t *testing.T) {
	var l listener
	d := l.decoder()
	source := rand.New(rand.NewPCG(1, 2))
	for size := range MaxBody + 1 {
		body := make([]byte, size)
		for i := range body {
			body[i] = byte(source.Uint32())
		}
		frame := Append(nil, body)
		if len(frame) > MaxFrame {
			t.Fatalf("%d bytes make a frame of %d", size, len(frame))
		}
		d.Feed(frame)
		if len(l.frames) != 1 || !bytes.Equal(l.frames[0], body) {
			t.Fatalf("%d bytes did not come back", size)
		}
		l.frames = l.frames[:0]
	}
	if l.broken != 0 || len(l.text) != 0 {
		t.Errorf("%d broken, text %q", l.broken, l.text)
	}
}

func TestTheLongestFrameIsWrittenInOnePiece(t *testing.T) {
	if MaxFrame > 2048 {
		t.Errorf("%d bytes", MaxFrame)
	}
}

func TestAFrameHasNoByteThatATerminalActsOn(t *testing.T) {
	for _, b := range Append(nil, everyByte()) {
		if b < 0x80 && b != Start && b != End {
			t.Errorf("0x%02x", b)
		}
	}
}

func TestAMessageAnywhereInAFrameHarmsNeither(t *testing.T) {
	const message = "[    1.234567] random: crng init done\r\n"
	body := everyByte()
	frame := Append(nil, body)
	for at := range len(frame) + 1 {
		var l listener
		d := l.decoder()
		d.Feed(frame[:at])
		d.Feed([]byte(message))
		d.Feed(frame[at:])
		if len(l.frames) != 1 || !bytes.Equal(l.frames[0], body) || string(l.text) != message || l.broken != 0 {
			t.Fatalf("at %d: %d frames, text %q, %d broken", at, len(l.frames), l.text, l.broken)
		}
	}
}

func TestTextInAnyLanguageBetweenFramesIsKept(t *testing.T) {
	const text = "Grüße, 世界\n"
	var l listener
	d := l.decoder()
	d.Feed(append(Append([]byte(text), []byte("a")), text...))
	if string(l.text) != text+text || len(l.frames) != 1 {
		t.Errorf("%q, %d frames", l.text, len(l.frames))
	}
}

func TestASpoiltFrameIsFoundOutAndTheNextOneIsRead(t *testing.T) {
	body := everyByte()
	frame := Append(nil, body)
	for at := range frame {
		for name, spoilt := range map[string][]byte{
			"lost":    append(bytes.Clone(frame[:at]), frame[at+1:]...),
			"changed": append(append(bytes.Clone(frame[:at]), frame[at]^1), frame[at+1:]...),
			"cut":     frame[:at],
		} {
			var l listener
			d := l.decoder()
			d.Feed(spoilt)
			d.Feed(frame)
			if len(l.frames) != 1 || !bytes.Equal(l.frames[0], body) {
				t.Fatalf("%s at %d: %d frames", name, at, len(l.frames))
			}
			if l.broken == 0 && at > 0 {
				t.Fatalf("%s at %d: nobody noticed", name, at)
			}
		}
	}
}

func TestAFrameThatNeverEndsIsGivenUp(t *testing.T) {
	var l listener
	d := l.decoder()
	d.Feed([]byte{Start})
	d.Feed(bytes.Repeat([]byte{0x80}, 3*MaxFrame))
	d.Feed(Append(nil, []byte("next")))
	if l.broken != 1 || len(l.frames) != 1 || string(l.frames[0]) != "next" {
		t.Errorf("%d broken, %q", l.broken, l.frames)
	}
}

type vectors struct {
	Frames []struct{ Name, Body, Line string }
	Lines  []struct {
		Name, Line, Text string
		Frames           []string
		Broken           int
	}
}

func TestVectors(t *testing.T) {
	content, err := os.ReadFile("../../../../tests/vectors/armour.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(content, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Frames) == 0 || len(v.Lines) == 0 {
		t.Fatal("no vectors")
	}
	for _, c := range v.Frames {
		if got := hex.EncodeToString(Append(nil, unhex(t, c.Body))); got != c.Line {
			t.Errorf("%s: %s", c.Name, got)
		}
	}
	for _, c := range v.Lines {
		var l listener
		l.decoder().Feed(unhex(t, c.Line))
		if hex.EncodeToString(l.text) != c.Text || l.broken != c.Broken || len(l.frames) != len(c.Frames) {
			t.Errorf("%s: text %x, %d frames, %d broken", c.Name, l.text, len(l.frames), l.broken)
			continue
		}
		for i, frame := range c.Frames {
			if hex.EncodeToString(l.frames[i]) != frame {
				t.Errorf("%s: frame %x", c.Name, l.frames[i])
			}
		}
	}
}

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func FuzzDecoder(f *testing.F) {
	f.Add(Append([]byte("text"), []byte("body")), 3)
	f.Add([]byte{Start, 0x80, Start, End, End}, 1)
	f.Fuzz(func(t *testing.T, input []byte, cut int) {
		var whole, parts listener
		whole.decoder().Feed(input)
		d := parts.decoder()
		if cut < 0 || cut > len(input) {
			cut = len(input) / 2
		}
		d.Feed(input[:cut])
		d.Feed(input[cut:])
		if !bytes.Equal(whole.text, parts.text) || len(whole.frames) != len(parts.frames) || whole.broken != parts.broken {
			t.Fatal("it depends on how the bytes arrive")
		}
		for _, body := range whole.frames {
			var again listener
			again.decoder().Feed(Append(nil, body))
			if len(again.frames) != 1 || !bytes.Equal(again.frames[0], body) {
				t.Fatal("a frame that was read is not written the same")
			}
		}
	})
}

package wire

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"os"
	"testing"
	"testing/iotest"

	"github.com/vmihailenco/msgpack/v5"
)

// The vectors are the contract with the host's side, which runs the same file.
const vectorFile = "../../../../tests/vectors/protocol.json"

type hexBytes []byte

func (h *hexBytes) UnmarshalJSON(b []byte) error {
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return err
	}
	raw, err := hex.DecodeString(text)
	*h = raw
	return err
}

type vectorFrame struct {
	Type    Type
	Payload hexBytes
}

type vectors struct {
	Frames []struct {
		vectorFrame
		Name string
		Hex  hexBytes
	}
	Handshakes []struct {
		Name         string
		Nonce, Token hexBytes
		Boot         hexBytes `json:"boot_id"`
		HelloHex     hexBytes `json:"hello"`
		WelcomeHex   hexBytes `json:"welcome"`
	}
	Streams []struct {
		Name, Reader string
		Hex          hexBytes
		Frames       []vectorFrame
	}
	Invalid []struct {
		Name, Reader, Reason string
		Hex                  hexBytes
	}
	Messages []struct {
		Name   string
		Type   Type
		Hex    hexBytes
		Fields map[string]any
	}
}

func loadVectors(t testing.TB) *vectors {
	t.Helper()
	raw, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Skipf("the vectors are beside the agent in the repository only: %v", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	v := new(vectors)
	if err := decoder.Decode(v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestVectorFramesAreWrittenAsTheContractSays(t *testing.T) {
	for _, c := range loadVectors(t).Frames {
		if got := Frame(c.Type, c.Payload); !bytes.Equal(got, c.Hex) {
			t.Errorf("%s: %x, want %x", c.Name, got, []byte(c.Hex))
		}
	}
}

func TestVectorHandshakes(t *testing.T) {
	for _, c := range loadVectors(t).Handshakes {
		g, err := ParseHello(c.HelloHex[HeaderSize:])
		if err != nil {
			t.Fatalf("%s: %v", c.Name, err)
		}
		if !bytes.Equal(g.Nonce[:], c.Nonce) || !bytes.Equal(g.Token[:], c.Token) || g.Version != Version {
			t.Errorf("%s: %+v", c.Name, g)
		}
		if got := WelcomeFrame(g.Nonce, [16]byte(c.Boot)); !bytes.Equal(got, c.WelcomeHex) {
			t.Errorf("%s: %x, want %x", c.Name, got, []byte(c.WelcomeHex))
		}
	}
}

// takeFrames reads frames as the connection does, with all checks of their content.
func takeFrames(src io.Reader) (frames []vectorFrame, err error) {
	r := NewReader(src)
	greeted := false
	for {
		h, err := r.Next()
		if err != nil {
			return frames, err
		}
		if !greeted && h.Type != Hello {
			return frames, Violation("a frame before HELLO")
		}
		p, err := r.Payload()
		if err != nil {
			return frames, err
		}
		switch h.Type {
		case Hello:
			greeted = true
			_, err = ParseHello(p)
		case Request:
			_, err = Operation(p)
		}
		if err != nil {
			return frames, err
		}
		frames = append(frames, vectorFrame{h.Type, p})
	}
}

func TestVectorStreamsHoweverTheyAreCut(t *testing.T) {
	for _, c := range loadVectors(t).Streams {
		if c.Reader != "guest" {
			continue
		}
		for name, cut := range map[string]func(io.Reader) io.Reader{
			"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader, "halves": iotest.HalfReader,
		} {
			frames, err := takeFrames(cut(bytes.NewReader(c.Hex)))
			if err != io.EOF || len(frames) != len(c.Frames) {
				t.Errorf("%s (%s): %d frames, %v", c.Name, name, len(frames), err)
				continue
			}
			for i, f := range frames {
				if f.Type != c.Frames[i].Type || !bytes.Equal(f.Payload, c.Frames[i].Payload) {
					t.Errorf("%s (%s): frame %d is %v", c.Name, name, i, f)
				}
			}
		}
	}
}

func TestVectorInvalidStreamsAreRefused(t *testing.T) {
	for _, c := range loadVectors(t).Invalid {
		if c.Reader != "guest" {
			continue
		}
		if _, err := takeFrames(bytes.NewReader(c.Hex)); !errors.Is(err, ErrViolation) {
			t.Errorf("%s (%s): %v", c.Name, c.Reason, err)
		}
	}
}

func TestVectorMessages(t *testing.T) {
	for _, c := range loadVectors(t).Messages {
		if err := validate(c.Hex); err != nil {
			t.Errorf("%s: %v", c.Name, err)
			continue
		}
		got := decodeLoosely(t, c.Hex)
		if !same(c.Fields, got) {
			t.Errorf("%s: %#v, want %v", c.Name, got, c.Fields)
		}
		var again bytes.Buffer
		if err := msgpack.NewEncoder(&again).Encode(got); err != nil {
			t.Fatal(err)
		}
		if !same(c.Fields, decodeLoosely(t, again.Bytes())) {
			t.Errorf("%s: changed by encoding it again", c.Name)
		}
	}
}

func decodeLoosely(t *testing.T, raw []byte) any {
	t.Helper()
	d := msgpack.NewDecoder(bytes.NewReader(raw))
	d.SetMapDecoder(func(d *msgpack.Decoder) (any, error) { // a key of bytes becomes a string
		n, err := d.DecodeMapLen()
		m := make(map[string]any, max(n, 0))
		for ; err == nil && n > 0; n-- {
			var key string
			if key, err = d.DecodeString(); err == nil {
				m[key], err = d.DecodeInterface()
			}
		}
		return m, err
	})
	v, err := d.DecodeInterface()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// same compares what was decoded with the vectors' way of writing it. Go cannot have bytes as a
// map's key, so byte keys arrive as strings.
func same(want, got any) bool {
	switch w := want.(type) {
	case nil:
		return got == nil
	case bool, string:
		return w == got
	case json.Number:
		return sameNumber(w, got)
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			return false
		}
		for i := range w {
			if !same(w[i], g[i]) {
				return false
			}
		}
		return true
	case map[string]any:
		if text, ok := w["bin"].(string); ok && len(w) == 1 {
			raw, _ := hex.DecodeString(text)
			g, ok := got.([]byte)
			return ok && bytes.Equal(raw, g)
		}
		g, ok := got.(map[string]any)
		if pairs, isMap := w["map"].([]any); ok && isMap && len(w) == 1 {
			for _, pair := range pairs {
				p := pair.([]any)
				raw, _ := hex.DecodeString(p[0].(map[string]any)["bin"].(string))
				if !same(p[1], g[string(raw)]) {
					return false
				}
			}
			return len(g) == len(pairs)
		}
		for key := range w {
			if value, there := g[key]; !there || !same(w[key], value) {
				return false
			}
		}
		return ok && len(g) == len(w)
	}
	return false
}

func sameNumber(want json.Number, got any) bool {
	w, _, err := big.ParseFloat(want.String(), 10, 100, big.ToNearestEven)
	if err != nil {
		return false
	}
	g := new(big.Float).SetPrec(100)
	switch v := got.(type) {
	case int8:
		g.SetInt64(int64(v))
	case int16:
		g.SetInt64(int64(v))
	case int32:
		g.SetInt64(int64(v))
	case int64:
		g.SetInt64(v)
	case uint8:
		g.SetUint64(uint64(v))
	case uint16:
		g.SetUint64(uint64(v))
	case uint32:
		g.SetUint64(uint64(v))
	case uint64:
		g.SetUint64(v)
	case float64:
		g.SetFloat64(v)
	default:
		return false
	}
	return w.Cmp(g) == 0
}

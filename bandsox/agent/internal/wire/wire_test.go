package wire

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func helloFrame(nonce byte) []byte {
	p := append([]byte(magic), 0, 1)
	p = append(p, bytes.Repeat([]byte{nonce}, 16)...)
	return Frame(Hello, append(p, make([]byte, 32)...))
}

func TestResyncFindsTheNextHelloBehindAnything(t *testing.T) {
	for name, garbage := range map[string][]byte{
		"nothing":                          {},
		"an unknown type":                  Frame(0x77, []byte("x")),
		"a length that takes HELLO's type": {0x02, 0x00, 0x00, 0x00},
		"the beginning of a HELLO":         helloFrame(9)[:9],
		"more than the buffer holds":       bytes.Repeat([]byte{0x7f}, 5*readerSize+3),
	} {
		r := NewReader(bytes.NewReader(append(bytes.Clone(garbage), helloFrame(7)...)))
		_, _ = r.Next()
		if err := r.Resync(); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		h, err := r.Next()
		if err != nil || h.Type != Hello {
			t.Errorf("%s: %v %v", name, h, err)
			continue
		}
		p, err := r.Payload()
		if g, helloErr := ParseHello(p); err != nil || helloErr != nil || g.Nonce[0] != 7 {
			t.Errorf("%s: %v %v %v", name, g, err, helloErr)
		}
	}
}

func TestNextSkipsWhatWasNotReadOfAPayload(t *testing.T) {
	stream := append(Frame(HostData, bytes.Repeat([]byte("x"), MaxPayload)), Frame(Request, []byte("r"))...)
	r := NewReader(bytes.NewReader(stream))
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	if n, err := r.ReadSome(make([]byte, 10)); n != 10 || err != nil {
		t.Fatal(n, err)
	}
	if h, err := r.Next(); err != nil || h.Type != Request {
		t.Fatal(h, err)
	}
}

func TestOperationIsFoundWhereverItStands(t *testing.T) {
	frame, err := MessageFrame(Request, map[string]any{"a": []byte{1}, "op": "stat", "z": 1})
	if err != nil {
		t.Fatal(err)
	}
	if op, err := Operation(frame[HeaderSize:]); op != "stat" || err != nil {
		t.Fatal(op, err)
	}
	if _, err := Operation([]byte{0x80}); AsFailure(err).Code != CodeInvalid || errors.Is(err, ErrViolation) {
		t.Fatalf("a request without op is a mistake, not a broken protocol: %v", err)
	}
}

func TestDecodeSaysThatAFieldHasTheWrongType(t *testing.T) {
	frame, _ := MessageFrame(Request, map[string]any{"op": "exec", "argv": "not a list"})
	var r ExecRequest
	err := Decode(frame[HeaderSize:], &r)
	if AsFailure(err).Code != CodeInvalid || errors.Is(err, ErrViolation) {
		t.Fatal(err)
	}
}

func TestDecodeTakesNilForAbsent(t *testing.T) {
	frame, _ := MessageFrame(Request, map[string]any{"argv": nil, "tty": nil, "shell": nil, "timeout_ms": nil, "env": nil, "cwd": nil})
	var r ExecRequest
	if err := Decode(frame[HeaderSize:], &r); err != nil || r.TTY != nil || r.Shell != nil || r.TimeoutMS != 0 {
		t.Fatalf("%+v %v", r, err)
	}
}

func TestAMessageTooLongForAFrameIsAnError(t *testing.T) {
	if _, err := MessageFrame(Event, map[string]string{"x": strings.Repeat("y", MaxPayload)}); err == nil {
		t.Fatal("no error")
	}
}

// FuzzReader feeds any bytes: the reader must end with an error and never hand out a frame that
// the protocol does not allow.
func FuzzReader(f *testing.F) {
	f.Add(helloFrame(1))
	f.Add(append(make([]byte, 9), Frame(Request, []byte{0x80})...))
	f.Add([]byte{3, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := NewReader(bytes.NewReader(stream))
		for {
			h, err := r.Next()
			if errors.Is(err, ErrViolation) {
				switch err := r.Resync(); err {
				case nil:
					continue
				case io.EOF:
					return
				default:
					t.Fatal(err)
				}
			}
			if err != nil {
				return
			}
			if h.Type < Hello || h.Type > Control || h.Length > MaxPayload {
				t.Fatalf("%+v", h)
			}
			if p, err := r.Payload(); err == nil && len(p) != h.Length {
				t.Fatalf("%d of %d bytes", len(p), h.Length)
			}
		}
	})
}

// FuzzDecode feeds any bytes as a message of each kind.
func FuzzDecode(f *testing.F) {
	for _, message := range []any{
		ExecRequest{Argv: []string{"a"}, Env: map[string]string{"k": "v"}, TTY: &Winsize{80, 24}},
		FileRequest{Path: "/x", Exclude: []string{"*"}}, SetupRequest{Token: make([]byte, 32)}, End{},
	} {
		frame, err := MessageFrame(Request, message)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(frame[HeaderSize:])
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		_, _ = Operation(payload)
		for _, out := range []any{
			new(ExecRequest), new(FileRequest), new(SetupRequest), new(SessionRequest),
			new(End), new(ControlMessage), new(ShutdownRequest), new(MetricsRequest),
		} {
			_ = Decode(payload, out)
		}
	})
}

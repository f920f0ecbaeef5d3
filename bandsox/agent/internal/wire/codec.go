package wire

import (
	"bytes"
	"encoding/binary"
	"sync"

	"github.com/vmihailenco/msgpack/v5"
)

// maxDepth bounds how deeply a message may nest: the deepest one the protocol
// knows has three levels, and the decoder below recurses.
const maxDepth = 16

// Decode reads a message into the struct that out points to.
//
// The payload is first walked without building anything, so that the decoder only
// ever sees one complete, shallow map whose lengths are all within the payload.
func Decode(payload []byte, out any) error {
	if err := validate(payload); err != nil {
		return err
	}
	if request, ok := out.(*ExecRequest); ok {
		v := values{rest: payload}
		if field := request.read(&v); v.wrong {
			return Fail(CodeInvalid, "the field %q has the wrong type", field)
		}
		return nil
	}
	if err := msgpack.Unmarshal(payload, out); err != nil {
		return Fail(CodeInvalid, "a field has the wrong type: %v", err)
	}
	return nil
}

// Operation finds the name of the operation that a REQUEST asks for, without decoding the rest.
func Operation(payload []byte) (string, error) {
	if err := validate(payload); err != nil {
		return "", err
	}
	v := values{rest: payload}
	for n := v.pairs(); n > 0 && !v.wrong; n-- {
		if string(v.text()) == "op" {
			if op := v.text(); !v.wrong {
				return string(op), nil
			}
			break
		}
		v.skip()
	}
	return "", Fail(CodeInvalid, "a request without op")
}

var encoders = sync.Pool{New: func() any {
	e := &encoder{}
	e.enc = msgpack.NewEncoder(&e.buf)
	e.enc.UseCompactInts(true)
	return e
}}

type encoder struct {
	buf bytes.Buffer
	enc *msgpack.Encoder
}

// MessageFrame is a frame with a message as its payload. A message that cannot be
// encoded or is too long is a mistake of the agent's and comes back as an error.
func MessageFrame(t Type, message any) ([]byte, error) {
	switch m := message.(type) {
	case StartedEvent:
		return sealed(t, m.append(newFrame())), nil
	case ExitResult:
		return sealed(t, m.append(newFrame())), nil
	}
	e := encoders.Get().(*encoder)
	defer encoders.Put(e)
	e.buf.Reset()
	e.buf.Write(make([]byte, HeaderSize))
	if err := e.enc.Encode(message); err != nil {
		return nil, Fail(CodeInternal, "encoding an answer: %v", err)
	}
	frame := bytes.Clone(e.buf.Bytes())
	if len(frame)-HeaderSize > MaxPayload {
		return nil, Fail(CodeInternal, "an answer of %d bytes", len(frame)-HeaderSize)
	}
	return sealed(t, frame), nil
}

// newFrame is the beginning of a frame whose message is short.
func newFrame() []byte { return make([]byte, HeaderSize, 128) }

// sealed writes the header of a whole frame.
func sealed(t Type, frame []byte) []byte {
	PutHeader(frame, t, len(frame)-HeaderSize)
	return frame
}

// validate checks that p is exactly one MessagePack map.
func validate(p []byte) error {
	if len(p) == 0 || !(p[0]&0xf0 == 0x80 || p[0] == 0xde || p[0] == 0xdf) {
		return Violation("a message that is not a map")
	}
	rest, err := skip(p, 0)
	if err != nil {
		return err
	}
	if len(rest) != 0 {
		return Violation("%d bytes after a message", len(rest))
	}
	return nil
}

// skip walks over one MessagePack value. (https://github.com/msgpack/msgpack/blob/master/spec.md)
func skip(p []byte, depth int) ([]byte, error) {
	if len(p) == 0 {
		return nil, Violation("a message that ends too early")
	}
	if depth > maxDepth {
		return nil, Violation("a message that nests too deeply")
	}
	c := p[0]
	p = p[1:]
	switch {
	case c < 0x80, c >= 0xe0, c == 0xc0, c == 0xc2, c == 0xc3: // fixint, nil, bool
		return p, nil
	case c < 0x90:
		return skipItems(p, 2*uint64(c&0x0f), depth)
	case c < 0xa0:
		return skipItems(p, uint64(c&0x0f), depth)
	case c < 0xc0:
		return skipBytes(p, uint64(c&0x1f))
	}
	switch c {
	case 0xc4, 0xc5, 0xc6: // bin 8, 16, 32
		return skipSized(p, 1<<(c-0xc4), func(p []byte, n uint64) ([]byte, error) { return skipBytes(p, n) })
	case 0xc7, 0xc8, 0xc9: // ext 8, 16, 32: a type byte stands before the data
		return skipSized(p, 1<<(c-0xc7), func(p []byte, n uint64) ([]byte, error) { return skipBytes(p, n+1) })
	case 0xca, 0xce, 0xd2:
		return skipBytes(p, 4)
	case 0xcb, 0xcf, 0xd3:
		return skipBytes(p, 8)
	case 0xcc, 0xd0:
		return skipBytes(p, 1)
	case 0xcd, 0xd1:
		return skipBytes(p, 2)
	case 0xd4, 0xd5, 0xd6, 0xd7, 0xd8: // fixext
		return skipBytes(p, 1+1<<(c-0xd4))
	case 0xd9, 0xda, 0xdb: // str 8, 16, 32
		return skipSized(p, 1<<(c-0xd9), func(p []byte, n uint64) ([]byte, error) { return skipBytes(p, n) })
	case 0xdc, 0xdd: // array 16, 32
		return skipSized(p, 2<<(c-0xdc), func(p []byte, n uint64) ([]byte, error) { return skipItems(p, n, depth) })
	case 0xde, 0xdf: // map 16, 32
		return skipSized(p, 2<<(c-0xde), func(p []byte, n uint64) ([]byte, error) { return skipItems(p, 2*n, depth) })
	}
	return nil, Violation("the byte 0x%02x, which MessagePack does not use", c)
}

// skipSized reads a big-endian length of `width` bytes and lets `rest` go on with it.
func skipSized(p []byte, width int, rest func([]byte, uint64) ([]byte, error)) ([]byte, error) {
	if len(p) < width {
		return nil, Violation("a message that ends too early")
	}
	var wide [8]byte
	copy(wide[8-width:], p[:width])
	return rest(p[width:], binary.BigEndian.Uint64(wide[:]))
}

func skipBytes(p []byte, n uint64) ([]byte, error) {
	if n > uint64(len(p)) {
		return nil, Violation("a message that ends too early")
	}
	return p[n:], nil
}

func skipItems(p []byte, n uint64, depth int) (_ []byte, err error) {
	if n > uint64(len(p)) { // every item takes a byte at least
		return nil, Violation("a message that ends too early")
	}
	for ; n > 0; n-- {
		if p, err = skip(p, depth+1); err != nil {
			return nil, err
		}
	}
	return p, nil
}

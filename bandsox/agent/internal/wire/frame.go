// Package wire is the guest protocol's byte level: frames, the HELLO and WELCOME
// that start a connection, and the MessagePack messages inside the other frames.
//
// docs/protocol.md is the contract; tests/vectors/protocol.json holds the cases
// that both sides run. Nothing here knows what an operation does.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Version is the protocol version this agent speaks.
const Version = 1

// MaxPayload is the longest payload a frame may have.
const MaxPayload = 1 << 20

// HeaderSize is the length of a frame's type and length fields.
const HeaderSize = 5

// Type says what a frame carries.
type Type uint8

// Frame types. Those below 0x80 travel to the guest, the others to the host.
const (
	Hello    Type = 0x01
	Request  Type = 0x02
	HostData Type = 0x03
	HostEnd  Type = 0x04
	Control  Type = 0x05

	Welcome   Type = 0x81
	Result    Type = 0x82
	Error     Type = 0x83
	GuestData Type = 0x84
	Stderr    Type = 0x85
	GuestEnd  Type = 0x86
	Event     Type = 0x87
	Window    Type = 0x88
)

// ErrViolation is wrapped by every Violation.
var ErrViolation = errors.New("protocol violation")

// Violation is an error about bytes that the protocol does not allow.
func Violation(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrViolation, fmt.Sprintf(format, args...))
}

// Header is the head of one frame.
type Header struct {
	Type   Type
	Length int
}

// parseHeader reads a header as the host may send it.
func parseHeader(b []byte) (Header, error) {
	h := Header{Type: Type(b[0]), Length: int(binary.BigEndian.Uint32(b[1:HeaderSize]))}
	if h.Type < Hello || h.Type > Control {
		return h, Violation("unknown frame type 0x%02x", b[0])
	}
	if h.Length > MaxPayload {
		return h, Violation("a frame of %d bytes", binary.BigEndian.Uint32(b[1:HeaderSize]))
	}
	if h.Type == Hello && h.Length != helloSize {
		return h, Violation("a HELLO of %d bytes", h.Length)
	}
	return h, nil
}

// PutHeader writes a frame's header into the first HeaderSize bytes of b.
func PutHeader(b []byte, t Type, length int) {
	b[0] = byte(t)
	binary.BigEndian.PutUint32(b[1:HeaderSize], uint32(length))
}

// Frame returns a whole frame. Bulk data does not come this way: see Buffer.
func Frame(t Type, payload []byte) []byte {
	b := make([]byte, HeaderSize+len(payload))
	PutHeader(b, t, len(payload))
	copy(b[HeaderSize:], payload)
	return b
}

// WindowFrame grants the host n more bytes of DATA.
func WindowFrame(n int) []byte {
	return Frame(Window, binary.BigEndian.AppendUint32(nil, uint32(n)))
}

const (
	magic       = "BANDSOX1"
	helloSize   = len(magic) + 2 + 16 + 32
	welcomeSize = len(magic) + 2 + 16 + 16
)

// Greeting is the content of a HELLO.
type Greeting struct {
	Version uint16
	Nonce   [16]byte
	Token   [32]byte
}

// ParseHello reads a HELLO's payload.
func ParseHello(p []byte) (Greeting, error) {
	var g Greeting
	if len(p) != helloSize || string(p[:len(magic)]) != magic {
		return g, Violation("a HELLO without its magic")
	}
	g.Version = binary.BigEndian.Uint16(p[8:10])
	copy(g.Nonce[:], p[10:26])
	copy(g.Token[:], p[26:58])
	return g, nil
}

// WelcomeFrame is the answer to a HELLO with this nonce.
func WelcomeFrame(nonce, bootID [16]byte) []byte {
	p := make([]byte, 0, welcomeSize)
	p = append(p, magic...)
	p = binary.BigEndian.AppendUint16(p, Version)
	p = append(p, nonce[:]...)
	p = append(p, bootID[:]...)
	return Frame(Welcome, p)
}

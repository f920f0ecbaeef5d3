// Package mux carries many byte streams on one connection of the guest protocol: the records in the DATA frames of the
// operation `streams` (docs/protocol.md, "Streams"). The agent uses one end of it, the forwarder on the host the other.
//
// Each direction of a stream has a credit, so whoever reads records never waits for the reader of a stream: one that does
// not read costs the others nothing, and at most CreditSize bytes of memory. The other end is not trusted with anything:
// what it may not send ends the session.
package mux

import (
	"encoding/binary"

	"bandsox.dev/agent/internal/wire"
)

const (
	// MaxStreams is how many streams are open at once.
	MaxStreams = 256

	// CreditSize is how many bytes of a direction may be under way to a reader that does not read.
	CreditSize = 128 << 10

	// headerSize is the length of a record's kind and stream number.
	headerSize = 5

	// frameSize is the longest frame of this package: two writes of 32 KiB on a virtio-serial port.
	frameSize = 64 << 10

	// dataSize is the most data in one record.
	dataSize = frameSize - wire.HeaderSize - headerSize

	// MaxRecord is the longest record.
	MaxRecord = headerSize + dataSize

	// maxHost is the longest text of an address.
	maxHost = 64
)

type kind uint8

const (
	kindOpen kind = iota + 1
	kindAccept
	kindRefuse
	kindData
	kindCredit
	kindFin
	kindClose
	kindReset
)

// Target is where a stream leads in the guest.
type Target struct {
	Port uint16
	Host string // an IP address; empty: the guest itself, over IPv4 or IPv6
}

func parseTarget(rest []byte) (Target, error) {
	if len(rest) < 2 || len(rest) > 2+maxHost {
		return Target{}, wire.Violation("an OPEN of %d bytes", len(rest))
	}
	return Target{Port: binary.BigEndian.Uint16(rest), Host: string(rest[2:])}, nil
}

func (t Target) append(p []byte) []byte {
	return append(binary.BigEndian.AppendUint16(p, t.Port), t.Host...)
}

// parseRecord splits a record into its parts.
func parseRecord(record []byte) (k kind, stream uint32, rest []byte, err error) {
	if len(record) < headerSize || len(record) > MaxRecord {
		return 0, 0, nil, wire.Violation("a record of %d bytes", len(record))
	}
	k = kind(record[0])
	if k < kindOpen || k > kindReset {
		return 0, 0, nil, wire.Violation("a record of kind %d", record[0])
	}
	return k, binary.BigEndian.Uint32(record[1:]), record[headerSize:], nil
}

func (s *Session) frame(k kind, stream uint32, rest []byte) []byte {
	frame := make([]byte, wire.HeaderSize+headerSize, wire.HeaderSize+headerSize+len(rest))
	s.putHeader(frame, k, stream, len(rest))
	return append(frame, rest...)
}

func (s *Session) putHeader(frame []byte, k kind, stream uint32, length int) {
	wire.PutHeader(frame, s.frameType, headerSize+length)
	frame[wire.HeaderSize] = byte(k)
	binary.BigEndian.PutUint32(frame[wire.HeaderSize+1:], stream)
}

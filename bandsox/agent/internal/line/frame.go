package line

import (
	"encoding/binary"

	"bandsox.dev/agent/internal/armour"
)

// kind says what a frame is. The guest's have the bit fromGuest, so that a terminal which echoes what it
// is sent does not look like a guest.
type kind uint8

const (
	kindSync   kind = 0x01 // the host begins a session, or the guest confirms one (0: it has none)
	kindRecord kind = 0x02 // one record, in sequence
	kindAck    kind = 0x03 // nothing but the acknowledgement
	kindNak    kind = 0x04 // and what comes after it was lost: send again

	fromGuest kind = 0x80
)

// op says what a record does to its stream.
type op uint8

const (
	opOpen   op = 1 // host: a stream to a port (u32)
	opAccept op = 2 // guest: somebody serves it
	opData   op = 3
	opCredit op = 4 // so many more bytes of data may be sent (u32)
	opFin    op = 5 // no more data comes
	opClose  op = 6 // no more data comes, and what still arrives is not read
	opReset  op = 7 // the stream is over, and what was under way is lost
)

const (
	headerSize       = 1 + 4 + 4 + 4
	recordHeaderSize = 1 + 4

	// dataSize is the most data in one record.
	dataSize = 1024
)

// frame is the body of an armoured frame: a header, and for kindRecord a record.
type frame struct {
	kind    kind
	session uint32
	seq     uint32 // of the record
	ack     uint32 // the next record the sender expects
	record  []byte
}

func (f *frame) append(line []byte) []byte {
	var space [armour.MaxBody]byte
	body := append(space[:0], byte(f.kind))
	body = binary.BigEndian.AppendUint32(body, f.session)
	body = binary.BigEndian.AppendUint32(body, f.seq)
	body = binary.BigEndian.AppendUint32(body, f.ack)
	return armour.Append(line, append(body, f.record...))
}

func parseFrame(body []byte) (f frame, ok bool) {
	if len(body) < headerSize {
		return f, false
	}
	return frame{
		kind:    kind(body[0]),
		session: binary.BigEndian.Uint32(body[1:]),
		seq:     binary.BigEndian.Uint32(body[5:]),
		ack:     binary.BigEndian.Uint32(body[9:]),
		record:  body[headerSize:],
	}, true
}

// record is one step of one stream.
type record struct {
	op     op
	stream uint32
	number uint32 // of opOpen and opCredit
	data   []byte // of opData
}

func (r *record) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(append(b, byte(r.op)), r.stream)
	switch r.op {
	case opOpen, opCredit:
		b = binary.BigEndian.AppendUint32(b, r.number)
	case opData:
		b = append(b, r.data...)
	}
	return b
}

func parseRecord(b []byte) (r record, ok bool) {
	if len(b) < recordHeaderSize {
		return r, false
	}
	r.op, r.stream, b = op(b[0]), binary.BigEndian.Uint32(b[1:]), b[recordHeaderSize:]
	switch r.op {
	case opOpen, opCredit:
		if len(b) != 4 {
			return r, false
		}
		r.number = binary.BigEndian.Uint32(b)
		return r, true
	case opData:
		r.data = b
		return r, len(b) > 0 && len(b) <= dataSize
	case opAccept, opFin, opClose, opReset:
		return r, len(b) == 0
	}
	return r, false
}

// Package armour carries frames of arbitrary bytes over a serial console that others print on too.
//
// A frame is seven bits a byte with the eighth bit set, between two control characters that no
// terminal setting acts on. Text (the kernel's messages, what programs print) has the eighth bit clear: so
// the two are told apart byte by byte, and a message in the middle of a frame harms neither.
// Text that is not ASCII may land in a frame and spoil it; the checksum finds out. docs/protocol.md has
// the definition, tests/vectors/armour.json its examples.
package armour

import (
	"encoding/binary"
	"hash/crc32"
)

const (
	// Start and End stand around a frame: ASCII's record separator and unit separator.
	Start = 0x1e
	End   = 0x1f

	// MaxBody is the most bytes a frame may carry.
	MaxBody = 1152

	checksumSize = 4
	maxEncoded   = ((MaxBody+checksumSize)*8 + 6) / 7
)

// MaxFrame is the length of the longest frame on the line. It is less than the 2 KiB up to which a terminal
// writes in one piece (Linux, drivers/tty/tty_io.c), so that what programs print never stands inside one.
const MaxFrame = maxEncoded + 2

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Append appends the frame that carries body, which is at most MaxBody long.
func Append(line, body []byte) []byte {
	line = append(line, Start)
	var bits uint32
	var count uint
	put := func(b byte) {
		bits, count = bits<<8|uint32(b), count+8
		for count >= 7 {
			count -= 7
			line = append(line, 0x80|byte(bits>>count))
		}
	}
	for _, b := range body {
		put(b)
	}
	for _, b := range binary.BigEndian.AppendUint32(nil, crc32.Checksum(body, castagnoli)) {
		put(b)
	}
	if count > 0 {
		line = append(line, 0x80|byte(bits<<(7-count)))
	}
	return append(line, End)
}

// Decoder separates a line's bytes into frames and text. Its memory does not depend on what it is fed.
type Decoder struct {
	Text   func([]byte) // what was printed; in pieces as they come
	Frame  func([]byte) // the body of a whole frame, valid until it returns
	Broken func()       // something that began as a frame was none

	inside  bool
	encoded [maxEncoded]byte
	n       int
	body    [MaxBody + checksumSize]byte
}

// Feed takes the next bytes of the line.
func (d *Decoder) Feed(p []byte) {
	text := 0 // p[text:i] is text that has not been handed out
	for i, b := range p {
		switch {
		case b == Start:
			d.print(p[text:i])
			text = i + 1
			if d.inside {
				d.Broken()
			}
			d.inside, d.n = true, 0
		case b == End:
			d.print(p[text:i])
			text = i + 1
			if d.inside {
				d.finish()
			}
		case d.inside && b >= 0x80:
			d.print(p[text:i])
			text = i + 1
			d.collect(b)
		}
	}
	d.print(p[text:])
}

func (d *Decoder) print(text []byte) {
	if len(text) > 0 {
		d.Text(text)
	}
}

func (d *Decoder) collect(b byte) {
	if d.n == len(d.encoded) {
		d.inside = false
		d.Broken()
		return
	}
	d.encoded[d.n] = b & 0x7f
	d.n++
}

func (d *Decoder) finish() {
	d.inside = false
	if body, ok := d.decode(); ok {
		d.Frame(body)
	} else {
		d.Broken()
	}
}

// decode accepts only what Append writes: the padding is shorter than a symbol, and zero.
func (d *Decoder) decode() ([]byte, bool) {
	size := d.n * 7 / 8
	if size < checksumSize || (size*8+6)/7 != d.n {
		return nil, false
	}
	var bits uint32
	var count uint
	n := 0
	for _, b := range d.encoded[:d.n] {
		bits, count = bits<<7|uint32(b), count+7
		if count >= 8 {
			count -= 8
			d.body[n] = byte(bits >> count)
			n++
		}
	}
	if bits&(1<<count-1) != 0 {
		return nil, false
	}
	body := d.body[:n-checksumSize]
	return body, crc32.Checksum(body, castagnoli) == binary.BigEndian.Uint32(d.body[n-checksumSize:n])
}

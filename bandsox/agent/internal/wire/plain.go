package wire

import "encoding/binary"

// What a command needs is read and written by the code in this file and in exec.go, all other messages by reflection. That touches a dozen times as much
// code, which under emulation is cold whenever another program has run: it took as long as all system calls of a command together.

// values reads a message that validate has found whole, one value after the other. A value of another type than the one that is asked for
// reads as zero, and wrong is set. nil is the zero value of every type.
type values struct {
	rest  []byte
	wrong bool
}

// count begins a map or an array: it returns how many entries follow, -1 for nil. small, wide are the type bytes of the short form and the one with 16 bits.
func (v *values) count(small, wide byte) int {
	c := v.rest[0]
	switch {
	case c&0xf0 == small:
		v.rest = v.rest[1:]
		return int(c & 0x0f)
	case c == wide:
		n := binary.BigEndian.Uint16(v.rest[1:])
		v.rest = v.rest[3:]
		return int(n)
	case c == wide+1:
		n := binary.BigEndian.Uint32(v.rest[1:])
		v.rest = v.rest[5:]
		return int(n)
	}
	v.none()
	return -1
}

func (v *values) pairs() int { return v.count(0x80, 0xde) }
func (v *values) items() int { return v.count(0x90, 0xdc) }

// none passes over a value of another type, which nil does not count as.
func (v *values) none() {
	v.wrong = v.wrong || v.rest[0] != 0xc0
	v.skip()
}

func (v *values) skip() {
	v.rest, _ = skip(v.rest, 0)
}

// text reads a string or binary.
func (v *values) text() []byte {
	c := v.rest[0]
	var head, n int
	switch {
	case c&0xe0 == 0xa0:
		head, n = 1, int(c&0x1f)
	case c == 0xc4, c == 0xd9:
		head, n = 2, int(v.rest[1])
	case c == 0xc5, c == 0xda:
		head, n = 3, int(binary.BigEndian.Uint16(v.rest[1:]))
	case c == 0xc6, c == 0xdb:
		head, n = 5, int(binary.BigEndian.Uint32(v.rest[1:]))
	default:
		v.none()
		return nil
	}
	text := v.rest[head : head+n]
	v.rest = v.rest[head+n:]
	return text
}

// optional reads a string or binary, which may be absent.
func (v *values) optional() *string {
	if v.rest[0] == 0xc0 {
		v.skip()
		return nil
	}
	text := string(v.text())
	return &text
}

func (v *values) flag() bool {
	if c := v.rest[0]; c == 0xc2 || c == 0xc3 {
		v.rest = v.rest[1:]
		return c == 0xc3
	}
	v.none()
	return false
}

// number reads an integer. One that does not fit is of the wrong type.
func (v *values) number() int64 {
	c := v.rest[0]
	var n int64
	width := 0
	switch {
	case c < 0x80, c >= 0xe0:
		n = int64(int8(c))
	case c >= 0xcc && c <= 0xcf: // unsigned, of 1, 2, 4 and 8 bytes
		width = 1 << (c - 0xcc)
		n = int64(v.unsigned(width))
		v.wrong = v.wrong || n < 0
	case c >= 0xd0 && c <= 0xd3: // signed
		width = 1 << (c - 0xd0)
		unused := 64 - 8*width
		n = int64(v.unsigned(width)) << unused >> unused
	default:
		v.none()
		return 0
	}
	v.rest = v.rest[1+width:]
	return n
}

// unsigned reads so many bytes behind the type byte.
func (v *values) unsigned(width int) uint64 {
	var wide [8]byte
	copy(wide[8-width:], v.rest[1:1+width])
	return binary.BigEndian.Uint64(wide[:])
}

// appendField appends a key of less than 32 bytes; its value follows.
func appendField(b []byte, key string) []byte { return append(append(b, 0xa0|byte(len(key))), key...) }

func appendFlag(b []byte, flag bool) []byte {
	if flag {
		return append(b, 0xc3)
	}
	return append(b, 0xc2)
}

// appendNumber appends an integer in its shortest form.
func appendNumber(b []byte, n int64) []byte {
	switch {
	case n >= -32 && n < 0x80:
		return append(b, byte(n))
	case n < -1<<31:
		return binary.BigEndian.AppendUint64(append(b, 0xd3), uint64(n))
	case n < -1<<15:
		return binary.BigEndian.AppendUint32(append(b, 0xd2), uint32(n))
	case n < -1<<7:
		return binary.BigEndian.AppendUint16(append(b, 0xd1), uint16(n))
	case n < 0:
		return append(b, 0xd0, byte(n))
	case n < 1<<8:
		return append(b, 0xcc, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, 0xcd), uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(b, 0xce), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, 0xcf), uint64(n))
}

package wire

import (
	"bytes"
	"io"
)

// readerSize is the look-ahead of a Reader. A virtio-serial port gives at most one
// page per read, a socket as much as is there.
const readerSize = 16 << 10

// Reader takes the host's frames off a byte stream.
//
// A frame's payload is read by Payload (as a whole, for messages) or piece by piece
// by ReadSome (for DATA, so that memory does not depend on the host's frame size).
// Next skips what was left of the payload before.
type Reader struct {
	src  io.Reader
	buf  []byte
	r, w int
	left int  // bytes of the current payload not yet handed out
	head bool // buf[:r] ends with the current frame's header
}

// NewReader returns a Reader at a place where a frame may start.
func NewReader(src io.Reader) *Reader {
	return &Reader{src: src, buf: make([]byte, readerSize)}
}

// Reset forgets what was buffered: the next byte of the source starts a frame.
func (r *Reader) Reset() { r.r, r.w, r.left, r.head = 0, 0, 0, false }

// Next skips padding and returns the next frame's header.
func (r *Reader) Next() (Header, error) {
	if err := r.skipPayload(); err != nil {
		return Header{}, err
	}
	for {
		for r.r < r.w && r.buf[r.r] == 0 {
			r.r++
		}
		if r.w-r.r >= HeaderSize {
			break
		}
		if err := r.fill(); err != nil {
			return Header{}, err
		}
	}
	h, err := parseHeader(r.buf[r.r:])
	if err != nil {
		return h, err
	}
	r.r += HeaderSize
	r.left, r.head = h.Length, true
	return h, nil
}

// Payload returns the rest of the current frame's payload, in memory of its own.
func (r *Reader) Payload() ([]byte, error) {
	p := make([]byte, r.left)
	for n := 0; n < len(p); {
		m, err := r.ReadSome(p[n:])
		if err != nil {
			return nil, err
		}
		n += m
	}
	return p, nil
}

// Left is how much of the current payload has not been read yet.
func (r *Reader) Left() int { return r.left }

// Buffered is how many bytes have arrived beyond what has been read.
func (r *Reader) Buffered() int { return r.w - r.r }

// ReadSome reads a part of the current payload into p, straight from the source
// when nothing is buffered. It returns 0 at the payload's end.
func (r *Reader) ReadSome(p []byte) (int, error) {
	p = p[:min(len(p), r.left)]
	if len(p) == 0 {
		return 0, nil
	}
	r.head = false
	var n int
	switch {
	case r.r < r.w:
		n = copy(p, r.buf[r.r:r.w])
		r.r += n
	case len(p) >= len(r.buf)/4:
		var err error
		if n, err = r.src.Read(p); n == 0 {
			return 0, orEOF(err)
		}
	default:
		if err := r.fill(); err != nil {
			return 0, err
		}
		return r.ReadSome(p)
	}
	r.left -= n
	return n, nil
}

// Resync drops bytes until a HELLO begins, which it leaves to be read. It is for a
// transport that the guest cannot close, after the host broke the protocol. What looked like
// the last frame's header may already be a part of the HELLO.
func (r *Reader) Resync() error {
	if r.head {
		r.r -= HeaderSize
	}
	r.left, r.head = 0, false
	var pattern [HeaderSize + len(magic)]byte
	PutHeader(pattern[:], Hello, helloSize)
	copy(pattern[HeaderSize:], magic)
	for {
		if i := bytes.Index(r.buf[r.r:r.w], pattern[:]); i >= 0 {
			r.r += i
			return nil
		}
		r.r = max(r.r, r.w-len(pattern)+1)
		if err := r.fill(); err != nil {
			return err
		}
	}
}

func (r *Reader) skipPayload() error {
	for r.left > 0 {
		if r.r == r.w {
			if err := r.fill(); err != nil {
				return err
			}
		}
		n := min(r.left, r.w-r.r)
		r.r += n
		r.left -= n
	}
	return nil
}

// fill reads at least one byte into the buffer.
func (r *Reader) fill() error {
	r.head = false
	if r.r == r.w {
		r.r, r.w = 0, 0
	} else if r.w == len(r.buf) {
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	n, err := r.src.Read(r.buf[r.w:])
	r.w += n
	if n == 0 {
		return orEOF(err)
	}
	return nil
}

func orEOF(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}

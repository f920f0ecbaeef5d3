package wire

import "sync"

// BulkSize is the size of a bulk frame with its header. It is a multiple of the
// 32 KiB that virtio-serial takes per write, so that no write carries a small rest.
const BulkSize = 256 << 10

// BulkPayload is the payload that fits into a bulk frame.
const BulkPayload = BulkSize - HeaderSize

// Buffer holds one bulk frame: room for the header, then up to BulkPayload bytes.
type Buffer struct {
	mem [BulkSize]byte
	n   int
}

var buffers = sync.Pool{New: func() any { return new(Buffer) }}

// NewBuffer takes an empty buffer from the pool.
func NewBuffer() *Buffer {
	b := buffers.Get().(*Buffer)
	b.n = 0
	return b
}

// Clear empties the buffer.
func (b *Buffer) Clear() { b.n = 0 }

// Free gives the buffer back; it must not be used afterwards.
func (b *Buffer) Free() { buffers.Put(b) }

// Space is the part of the payload that is still unused.
func (b *Buffer) Space() []byte { return b.mem[HeaderSize+b.n:] }

// Advance declares that n bytes of Space were filled.
func (b *Buffer) Advance(n int) { b.n += n }

// Payload is what the buffer holds.
func (b *Buffer) Payload() []byte { return b.mem[HeaderSize : HeaderSize+b.n] }

// Len is the length of the payload.
func (b *Buffer) Len() int { return b.n }

// Write appends as much of p as there is room for, and tells how much that was.
func (b *Buffer) Write(p []byte) int {
	n := copy(b.Space(), p)
	b.n += n
	return n
}

// Seal writes the header and returns the whole frame.
func (b *Buffer) Seal(t Type) []byte {
	PutHeader(b.mem[:], t, b.n)
	return b.mem[:HeaderSize+b.n]
}

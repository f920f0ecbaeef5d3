package serve

import (
	"context"
	"sync"

	"bandsox.dev/agent/internal/wire"
)

// inputWindow is how many bytes of input the host may have under way to a program.
const inputWindow = 256 << 10

// bulkChunks is how many pieces of a transfer wait for the disk.
const bulkChunks = 4

// chunk is a piece of the host's DATA.
type chunk struct {
	data []byte
	buf  *wire.Buffer // the pooled memory under data, or nil
}

func (c chunk) free() {
	if c.buf != nil {
		c.buf.Free()
	}
}

// inbox holds the DATA of one call between the connection's reader and the operation.
//
// Bulk data makes the reader wait when the inbox is full: the transport's back-pressure
// reaches the host. Input for a program is bounded by the window the host was granted
// instead, so that the reader never waits for a program.
type inbox struct {
	windowed bool

	mu      sync.Mutex
	changed sync.Cond
	chunks  []chunk
	unread  int // bytes received and not yet granted again
	end     *wire.End
	closed  bool
}

func newInbox(windowed bool) *inbox {
	b := &inbox{windowed: windowed}
	b.changed.L = &b.mu
	return b
}

// put adds a piece. It tells false when the host sent more than it was allowed to.
func (b *inbox) put(c chunk) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for !b.windowed && len(b.chunks) >= bulkChunks && !b.closed {
		b.changed.Wait()
	}
	if b.closed {
		c.free()
		return true
	}
	if b.end != nil || b.windowed && b.unread+len(c.data) > inputWindow {
		c.free()
		return false
	}
	b.unread += len(c.data)
	b.chunks = append(b.chunks, c)
	b.changed.Broadcast()
	return true
}

// finish records the host's END, and tells false when it is the second one.
func (b *inbox) finish(end wire.End) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.end != nil && !b.closed {
		return false
	}
	b.end = &end
	b.changed.Broadcast()
	return true
}

// granted takes n bytes, which the program has read, off the host's account.
func (b *inbox) granted(n int) {
	b.mu.Lock()
	b.unread -= n
	b.mu.Unlock()
}

// take returns the next piece, or END when all pieces were taken. The caller owns the
// chunk. It fails when ctx ends.
func (b *inbox) take(ctx context.Context) (chunk, *wire.End, error) {
	stop := context.AfterFunc(ctx, b.wake)
	defer stop()
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		switch {
		case ctx.Err() != nil:
			return chunk{}, nil, context.Cause(ctx)
		case len(b.chunks) > 0:
			c := b.chunks[0]
			b.chunks[0] = chunk{}
			b.chunks = b.chunks[1:]
			b.changed.Broadcast()
			return c, nil, nil
		case b.end != nil:
			return chunk{}, b.end, nil
		}
		b.changed.Wait()
	}
}

// close drops what is there and everything that still comes.
func (b *inbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for _, c := range b.chunks {
		c.free()
	}
	b.chunks = nil
	b.changed.Broadcast()
}

func (b *inbox) wake() {
	b.mu.Lock()
	b.changed.Broadcast()
	b.mu.Unlock()
}

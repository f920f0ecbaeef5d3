package process

import "sync"

const (
	// firstRing is what a stream with little output costs.
	firstRing = 4 << 10
	// kept is how much of each of a session's outputs is always kept.
	kept = 1 << 20
	// readSize is how much is read at once. What is being read into keeps nothing.
	readSize  = 64 << 10
	ringLimit = kept + readSize
)

// ring keeps the latest output of a session. One goroutine fills it; any number of cursors
// read it.
//
// A byte that a cursor has not read is never overwritten: the ring is full instead, and the
// program waits. Without cursors the oldest bytes give way.
type ring struct {
	space func() // called when a full ring may have room again

	mu         sync.Mutex
	mem        []byte // byte n of the stream is at n % len(mem)
	start, end uint64 // what the ring holds
	cursors    []*cursor
	closed     bool // nothing follows what the ring holds
}

// cursor is one reader's place in a ring.
type cursor struct {
	ring   *ring
	offset uint64
	wake   chan struct{} // gets a token, at most one, when there may be more to read
}

// attach returns a cursor at the offset, or as near to it as the ring reaches.
func (r *ring) attach(offset uint64, wake chan struct{}) *cursor {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &cursor{ring: r, offset: min(max(offset, r.start), r.end), wake: wake}
	r.cursors = append(r.cursors, c)
	return c
}

// detach lets the ring forget the cursor.
func (c *cursor) detach() {
	r := c.ring
	r.mu.Lock()
	for i, other := range r.cursors {
		if other == c {
			r.cursors = append(r.cursors[:i], r.cursors[i+1:]...)
			break
		}
	}
	r.mu.Unlock()
	r.space()
}

// read copies what is there into p; 0 means that there is nothing at present.
func (c *cursor) read(p []byte) (total int) {
	r := c.ring
	r.mu.Lock()
	wasFull := r.free() == 0
	for total < len(p) && c.offset < r.end {
		at := c.offset % uint64(len(r.mem))
		upTo := min(uint64(len(r.mem)), at+r.end-c.offset)
		n := copy(p[total:], r.mem[at:upTo])
		c.offset += uint64(n)
		total += n
	}
	r.mu.Unlock()
	if wasFull && total > 0 {
		r.space()
	}
	return total
}

// state tells whether there is something to read, and whether nothing more will come.
func (c *cursor) state() (ready, ended bool) {
	c.ring.mu.Lock()
	defer c.ring.mu.Unlock()
	ready = c.offset < c.ring.end
	return ready, c.ring.closed && !ready
}

// free is how much can be written without losing a byte that a cursor needs.
func (r *ring) free() int {
	unread := r.end
	for _, c := range r.cursors {
		unread = min(unread, c.offset)
	}
	return len(r.mem) - int(r.end-unread)
}

// reserve returns memory to be filled and then declared by commit; none when the ring is full.
// What the memory held before is given up.
func (r *ring) reserve() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if int(r.end-r.start) == len(r.mem) && len(r.mem) < ringLimit {
		r.grow()
	}
	at := int(r.end % uint64(len(r.mem)))
	n := min(r.free(), len(r.mem)-at, readSize)
	if r.end+uint64(n) > uint64(len(r.mem)) {
		r.start = max(r.start, r.end+uint64(n)-uint64(len(r.mem)))
	}
	return r.mem[at : at+n]
}

// commit declares that n bytes of what reserve gave were filled.
func (r *ring) commit(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end += uint64(n)
	r.notify()
}

func (r *ring) grow() {
	bigger := make([]byte, min(ringLimit, max(firstRing, 4*len(r.mem))))
	for offset := r.start; offset < r.end; {
		at := offset % uint64(len(r.mem))
		part := r.mem[at:min(uint64(len(r.mem)), at+r.end-offset)]
		offset += uint64(copy(bigger[offset%uint64(len(bigger)):], part))
	}
	r.mem = bigger
}

func (r *ring) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.notify()
}

// size is how much memory the ring holds.
func (r *ring) size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.mem)
}

// empty gives up what is kept, unless somebody is reading it. The ring must be closed.
func (r *ring) empty() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.cursors) == 0 {
		r.mem, r.start = nil, r.end
	}
}

func (r *ring) notify() {
	for _, c := range r.cursors {
		signal(c.wake)
	}
}

func signal(token chan struct{}) {
	select {
	case token <- struct{}{}:
	default:
	}
}

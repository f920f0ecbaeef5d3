package serve

import (
	"context"
	"io"
	"sync/atomic"

	"bandsox.dev/agent/internal/wire"

	"github.com/cespare/xxhash/v2"
)

// smallPayload is how much DATA travels in one write with the END and RESULT behind it.
const smallPayload = 16 << 10

// outgoing sends an operation's DATA. One goroutine fills a buffer while another one writes
// the last; what fits in one buffer is sent without a second goroutine.
type outgoing struct {
	call   *call
	buf    *wire.Buffer
	sum    *xxhash.Digest
	size   uint64
	queue  chan *wire.Buffer
	sent   chan struct{}
	failed atomic.Bool
}

// sendData runs produce with a writer for its DATA, and sends END after it.
func (k *call) sendData(produce func(io.Writer) error) error {
	w := &outgoing{call: k, sum: xxhash.New()}
	err := produce(w)
	if err == nil && w.queue == nil && w.length() <= smallPayload {
		w.hash()
		if w.buf != nil && w.buf.Len() > 0 {
			k.hold(w.buf.Seal(wire.GuestData))
		}
	} else if err == nil {
		err = w.flush()
	}
	w.stop()
	if err == nil {
		err = w.cause()
	}
	if err != nil {
		return err
	}
	sum := w.sum.Sum64()
	end, err := wire.MessageFrame(wire.GuestEnd, wire.End{Size: &w.size, XXH64: &sum})
	if err != nil {
		return err
	}
	k.hold(end)
	return nil
}

func (w *outgoing) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		p = p[w.space().Write(p):]
		if err := w.flushFull(); err != nil {
			return 0, err
		}
	}
	return total, nil
}

// ReadFrom reads straight into the buffers that are sent.
func (w *outgoing) ReadFrom(r io.Reader) (total int64, err error) {
	for {
		buf := w.space()
		n, err := r.Read(buf.Space())
		buf.Advance(n)
		total += int64(n)
		if err == io.EOF {
			return total, w.flushFull()
		}
		if err == nil {
			err = w.flushFull()
		}
		if err != nil {
			return total, err
		}
	}
}

// space returns a buffer with room in it.
func (w *outgoing) space() *wire.Buffer {
	if w.buf == nil {
		w.buf = wire.NewBuffer()
	}
	return w.buf
}

func (w *outgoing) length() int {
	if w.buf == nil {
		return 0
	}
	return w.buf.Len()
}

func (w *outgoing) flushFull() error {
	if w.length() < wire.BulkPayload {
		return nil
	}
	return w.flush()
}

func (w *outgoing) hash() {
	if w.buf != nil {
		_, _ = w.sum.Write(w.buf.Payload())
		w.size += uint64(w.buf.Len())
	}
}

// flush hands the buffer to the sending goroutine.
func (w *outgoing) flush() error {
	if w.length() == 0 {
		return w.cause()
	}
	if w.queue == nil {
		w.queue = make(chan *wire.Buffer, 1)
		w.sent = make(chan struct{})
		go w.transmit()
	}
	w.hash()
	w.queue <- w.buf
	w.buf = nil
	return w.cause()
}

func (w *outgoing) transmit() {
	defer close(w.sent)
	for buf := range w.queue {
		if !w.failed.Load() && w.call.frame(buf.Seal(wire.GuestData)) != nil {
			w.failed.Store(true)
		}
		buf.Free()
	}
}

func (w *outgoing) stop() {
	if w.queue != nil {
		close(w.queue)
		<-w.sent
	}
	if w.buf != nil {
		w.buf.Free()
		w.buf = nil
	}
}

// cause is why no more DATA is wanted, or nil.
func (w *outgoing) cause() error {
	if w.call.Err() != nil {
		return context.Cause(w.call)
	}
	if w.failed.Load() {
		return errLost
	}
	return nil
}

// incoming reads the host's DATA. It gives io.EOF only when size and checksum agree with
// those in the host's END.
type incoming struct {
	call    *call
	current chunk
	unread  []byte
	sum     *xxhash.Digest
	size    uint64
	end     *wire.End
}

func (k *call) receiveData() *incoming { return &incoming{call: k, sum: xxhash.New()} }

func (r *incoming) Read(p []byte) (int, error) {
	for len(r.unread) == 0 {
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.unread)
	r.unread = r.unread[n:]
	return n, nil
}

// WriteTo writes the pieces as they have arrived.
func (r *incoming) WriteTo(w io.Writer) (total int64, err error) {
	for {
		for len(r.unread) > 0 {
			n, err := w.Write(r.unread)
			total += int64(n)
			r.unread = r.unread[n:]
			if err != nil {
				return total, err
			}
		}
		if err := r.next(); err == io.EOF {
			return total, nil
		} else if err != nil {
			return total, err
		}
	}
}

func (r *incoming) next() error {
	r.current.free()
	r.current = chunk{}
	if r.end != nil {
		return r.verify()
	}
	piece, end, err := r.call.inbox.take(r.call)
	if err != nil {
		return err
	}
	if end != nil {
		r.end = end
		return r.verify()
	}
	_, _ = r.sum.Write(piece.data)
	r.size += uint64(len(piece.data))
	r.current, r.unread = piece, piece.data
	return nil
}

func (r *incoming) verify() error {
	switch {
	case r.end.Size != nil && *r.end.Size != r.size:
		return wire.Fail(wire.CodeChecksum, "%d bytes arrived, %d were sent", r.size, *r.end.Size)
	case r.end.XXH64 != nil && *r.end.XXH64 != r.sum.Sum64():
		return wire.Fail(wire.CodeChecksum, "the data that arrived is not what was sent")
	}
	return io.EOF
}

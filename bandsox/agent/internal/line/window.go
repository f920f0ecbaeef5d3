package line

import "time"

const (
	// windowSize is how many records may be under way without an acknowledgement. Eight KiB fill any serial
	// line, and are less than what a guest's terminal holds while nobody reads it.
	windowSize = 8

	// The least and the most patience with a record that is not acknowledged, before it is sent again.
	leastPatience = time.Second
	mostPatience  = 32 * time.Second
)

// window holds the records under way, and says which to send next. The line keeps the order, so a
// loss shows as a gap, and everything from there on is sent again.
type window struct {
	records  [windowSize][recordHeaderSize + dataSize]byte
	lengths  [windowSize]int
	times    [windowSize]time.Time
	oldest   uint32 // not acknowledged yet
	cursor   uint32 // sent next
	end      uint32 // behind the newest
	again    uint32 // records before this one were perhaps sent more than once
	probing  bool   // after silence: one record at a time, until somebody answers
	patience time.Duration
	deadline time.Time
	trip     estimate
}

func (w *window) reset() {
	w.oldest, w.cursor, w.end, w.again = 0, 0, 0, 0
	w.trip = estimate{}
	w.heard()
}

func (w *window) underWay() bool { return w.oldest != w.end }
func (w *window) full() bool     { return w.end-w.oldest == windowSize }

// add puts a record at the end. The window must not be full.
func (w *window) add(r *record) {
	slot := w.end % windowSize
	w.lengths[slot] = len(r.append(w.records[slot][:0]))
	w.end++
}

// next returns the record to send now, or false when all are sent or one is being waited for.
func (w *window) next(now time.Time) (seq uint32, content []byte, ok bool) {
	if w.cursor == w.end || w.probing && w.cursor != w.oldest {
		return 0, nil, false
	}
	seq = w.cursor
	w.cursor++
	slot := seq % windowSize
	w.times[slot] = now
	w.deadline = now.Add(w.patience)
	return seq, w.records[slot][:w.lengths[slot]], true
}

// acknowledge takes the other side's word for what it has; false: it cannot have that.
func (w *window) acknowledge(ack uint32, now time.Time) bool {
	if ack-w.oldest > w.end-w.oldest {
		return false
	}
	if ack == w.oldest {
		return true
	}
	if last := ack - 1; last-w.again < windowSize {
		w.trip.add(now.Sub(w.times[last%windowSize]))
	}
	if ack-w.oldest > w.cursor-w.oldest {
		w.cursor = ack
	}
	w.oldest = ack
	w.heard()
	w.deadline = now.Add(w.patience)
	return true
}

func (w *window) heard() { w.probing, w.patience = false, w.trip.patience() }

// goBack sends everything again that is not acknowledged.
func (w *window) goBack() { w.cursor, w.again = w.oldest, w.end }

// expire does what is due when no acknowledgement came in time.
func (w *window) expire(now time.Time) {
	if !w.underWay() || now.Before(w.deadline) {
		return
	}
	w.goBack()
	w.probing = true
	w.patience = min(2*w.patience, mostPatience)
	w.deadline = now.Add(w.patience)
}

// estimate is how long an acknowledgement takes, and how much that varies (RFC 6298, section 2).
type estimate struct{ mean, deviation time.Duration }

func (e *estimate) add(sample time.Duration) {
	if e.mean == 0 {
		e.mean, e.deviation = sample, sample/2
		return
	}
	e.deviation += ((e.mean - sample).Abs() - e.deviation) / 4
	e.mean += (sample - e.mean) / 8
}

func (e *estimate) patience() time.Duration {
	return min(max(e.mean+4*e.deviation, leastPatience), mostPatience)
}

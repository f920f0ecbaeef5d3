package process

// sessionSink keeps a session's output in its rings.
type sessionSink struct{ rings *[2]ring }

func (s sessionSink) Space(i int) []byte { return s.rings[i].reserve() }

func (s sessionSink) Took(i, n int) error {
	s.rings[i].commit(n)
	return nil
}

// keep follows a session to its end.
func (p *Process) keep() {
	p.Follow(sessionSink{p.rings}, nil)
	for i := range p.rings {
		p.rings[i].close()
	}
	p.Close()
	p.table.noteEnded(p)
}

// Attachment is a client's view of a session: a place in each output, and a token whenever
// there may be something new.
type Attachment struct {
	Process *Process
	Wake    chan struct{}
	cursors [2]*cursor
}

// Attach begins at the given offsets of stdout and stderr. Release must be called.
func (p *Process) Attach(stdout, stderr uint64) *Attachment {
	a := &Attachment{Process: p, Wake: make(chan struct{}, 1)}
	for i, offset := range [2]uint64{stdout, stderr} {
		a.cursors[i] = p.rings[i].attach(offset, a.Wake)
	}
	p.mu.Lock()
	p.attached++
	p.mu.Unlock()
	return a
}

// Release ends the attachment; the session goes on.
func (a *Attachment) Release() {
	for _, c := range a.cursors {
		c.detach()
	}
	a.Process.mu.Lock()
	a.Process.attached--
	a.Process.mu.Unlock()
}

// Offset is where the attachment stands in output i.
func (a *Attachment) Offset(i int) uint64 { return a.cursors[i].offset }

// Ready tells whether there is something to read from output i.
func (a *Attachment) Ready(i int) bool {
	ready, _ := a.cursors[i].state()
	return ready
}

// Read reads what is there of output i; 0 means nothing at present.
func (a *Attachment) Read(i int, p []byte) int { return a.cursors[i].read(p) }

// Exit returns how the process ended, once it has and both outputs were read to their end.
func (a *Attachment) Exit() *Exit {
	for _, c := range a.cursors {
		if _, ended := c.state(); !ended {
			return nil
		}
	}
	a.Process.mu.Lock()
	defer a.Process.mu.Unlock()
	return a.Process.exit
}

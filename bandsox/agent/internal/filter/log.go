package filter

import (
	"encoding/json"
	"io"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// logLimit is how large each of the two files of the log gets, in bytes.
	logLimit = 2 << 20

	// followerQueue is how many entries one who follows the log may be behind.
	followerQueue = 1024
)

// Entry is one line of the log: a connection that was opened, closed or refused, or a name that was not answered for.
type Entry struct {
	ID       uint64     `json:"id"`
	Time     float64    `json:"time"`  // seconds since the epoch
	Event    string     `json:"event"` // opened, closed, refused
	Protocol string     `json:"protocol"`
	Name     string     `json:"name,omitempty"`
	Address  netip.Addr `json:"address"`
	Port     uint16     `json:"port,omitempty"`
	Sent     int64      `json:"sent"` // bytes, by the machine
	Received int64      `json:"received"`
	Reason   string     `json:"reason,omitempty"`
}

// Log is the record of connections, in two files of which the older is emptied when the newer is full.
type Log struct {
	mu        sync.Mutex
	files     [2]*os.File
	sizes     [2]int64
	current   int
	followers map[chan []byte]struct{}
	ids       atomic.Uint64
	opened    atomic.Int64
	refusals  atomic.Int64
}

// NewLog goes on with a log in these files.
func NewLog(files [2]*os.File) *Log {
	l := &Log{files: files, followers: map[chan []byte]struct{}{}}
	var changed [2]time.Time
	for i, file := range files {
		if status, err := file.Stat(); err == nil {
			l.sizes[i], changed[i] = status.Size(), status.ModTime()
		}
		_, _ = file.Seek(0, io.SeekEnd)
	}
	if l.sizes[1] > 0 && (l.sizes[0] == 0 || changed[1].After(changed[0])) {
		l.current = 1
	}
	l.ids.Store(uint64(time.Now().UnixNano()))
	return l
}

// opens writes down that a connection was opened, and returns the entry with its number, to be closed.
func (l *Log) opens(entry Entry) Entry {
	entry.ID, entry.Event = l.ids.Add(1), "opened"
	l.opened.Add(1)
	l.write(entry)
	return entry
}

func (l *Log) closes(entry Entry, sent, received int64) {
	entry.Event, entry.Sent, entry.Received = "closed", sent, received
	l.write(entry)
}

func (l *Log) refused(entry Entry) {
	entry.ID, entry.Event = l.ids.Add(1), "refused"
	l.refusals.Add(1)
	l.write(entry)
}

func (l *Log) write(entry Entry) {
	entry.Time = float64(time.Now().UnixMicro()) / 1e6
	line, err := json.Marshal(entry)
	if err != nil {
		return
	}
	line = append(line, '\n')
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sizes[l.current]+int64(len(line)) > logLimit {
		other := 1 - l.current
		if err := l.files[other].Truncate(0); err != nil {
			return
		}
		_, _ = l.files[other].Seek(0, io.SeekStart)
		l.current, l.sizes[other] = other, 0
	}
	n, _ := l.files[l.current].Write(line) // a full disk costs the log its end, not the machine its network
	l.sizes[l.current] += int64(n)
	for follower := range l.followers {
		select {
		case follower <- line:
		default: // it is too slow, and learns that by the end of its entries
			delete(l.followers, follower)
			close(follower)
		}
	}
}

// follow returns what is written from now on, until stop is called or the one who follows is too slow.
func (l *Log) follow() (entries <-chan []byte, stop func()) {
	follower := make(chan []byte, followerQueue)
	l.mu.Lock()
	l.followers[follower] = struct{}{}
	l.mu.Unlock()
	return follower, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if _, there := l.followers[follower]; there {
			delete(l.followers, follower)
			close(follower)
		}
	}
}

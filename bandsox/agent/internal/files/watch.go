package files

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

const (
	watchMask = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MODIFY | unix.IN_ATTRIB |
		unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_EXCL_UNLINK

	// pairDelay is how long the second half of a move may come after the first. The kernel
	// queues both together, but a reader may catch them apart.
	pairDelay = 20 * time.Millisecond
)

// Watch tells emit of every change under path until ctx ends or emit fails.
func Watch(ctx context.Context, path string, recursive bool, emit func(wire.ChangeEvent) error) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return pathError("inotify", path, err)
	}
	w := &watcher{
		fd: fd, file: os.NewFile(uintptr(fd), "inotify"), emit: emit,
		recursive: recursive, paths: map[int32]string{},
	}
	defer w.file.Close()
	if err := w.add(filepath.Clean(path), nil); err != nil {
		return err
	}
	if err := emit(wire.ChangeEvent{Kind: "ready"}); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { w.file.Close() })
	defer stop()
	if err := w.run(); ctx.Err() == nil {
		return err
	}
	return context.Cause(ctx)
}

type watcher struct {
	fd        int
	file      *os.File
	emit      func(wire.ChangeEvent) error
	recursive bool
	paths     map[int32]string // of each watch

	moved  string // where the first half of a move was from
	cookie uint32 // of that move; 0: none is waiting
	last   string // the last change, to leave out its repetitions in one read
}

func (w *watcher) run() error {
	var buf [64 << 10]byte
	for {
		n, err := w.file.Read(buf[:])
		if os.IsTimeout(err) {
			err = w.settleMove()
			n = 0
		}
		if err != nil {
			return err
		}
		w.last = ""
		if err := w.handle(buf[:n]); err != nil {
			return err
		}
		var deadline time.Time
		if w.cookie != 0 {
			deadline = time.Now().Add(pairDelay)
		}
		if err := w.file.SetReadDeadline(deadline); err != nil {
			return err
		}
	}
}

// add watches a file or directory and, when recursive, what is below. found is called for
// everything that is already there below.
func (w *watcher) add(path string, found func(string) error) error {
	id, err := unix.InotifyAddWatch(w.fd, path, watchMask)
	if err != nil {
		return pathError("watch", path, err)
	}
	w.paths[int32(id)] = path
	if !w.recursive {
		return nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil // a file, or gone again
	}
	for _, entry := range entries {
		child := filepath.Join(path, entry.Name())
		if found != nil {
			if err := found(child); err != nil {
				return err
			}
		}
		if !entry.IsDir() {
			continue
		}
		if err := w.add(child, found); err != nil && wire.AsFailure(err).Code != wire.CodeNotFound {
			return err
		}
	}
	return nil
}

func (w *watcher) handle(events []byte) error {
	for len(events) >= unix.SizeofInotifyEvent {
		event := (*unix.InotifyEvent)(unsafe.Pointer(&events[0]))
		end := unix.SizeofInotifyEvent + int(event.Len)
		name := string(bytes.TrimRight(events[unix.SizeofInotifyEvent:end], "\x00"))
		if err := w.one(event, name); err != nil {
			return err
		}
		events = events[end:]
	}
	return nil
}

func (w *watcher) one(event *unix.InotifyEvent, name string) error {
	mask := event.Mask
	if mask&unix.IN_Q_OVERFLOW != 0 {
		return w.change("overflow", "", "")
	}
	path, known := w.paths[event.Wd]
	if !known {
		return nil
	}
	if mask&unix.IN_IGNORED != 0 {
		delete(w.paths, event.Wd)
		return nil
	}
	if name != "" {
		path = filepath.Join(path, name)
	}
	if w.cookie != 0 && (mask&unix.IN_MOVED_TO == 0 || event.Cookie != w.cookie) {
		if err := w.settleMove(); err != nil {
			return err
		}
	}
	isDir := mask&unix.IN_ISDIR != 0
	switch {
	case mask&unix.IN_CREATE != 0:
		return w.appeared("created", path, "", isDir)
	case mask&unix.IN_MOVED_FROM != 0:
		w.moved, w.cookie = path, event.Cookie
		return nil
	case mask&unix.IN_MOVED_TO != 0 && w.cookie != 0:
		from := w.moved
		w.cookie = 0
		w.rename(from, path)
		return w.appeared("moved", from, path, isDir)
	case mask&unix.IN_MOVED_TO != 0:
		return w.appeared("created", path, "", isDir)
	case mask&unix.IN_DELETE != 0:
		return w.change("removed", path, "")
	case mask&unix.IN_DELETE_SELF != 0 && len(w.paths) == 1:
		return w.change("removed", path, "") // the watched path itself; others are their parent's news
	case mask&unix.IN_MODIFY != 0:
		return w.change("modified", path, "")
	case mask&unix.IN_ATTRIB != 0:
		return w.change("attributes", path, "")
	}
	return nil
}

// appeared reports a new name and, below a new directory, what came with it: that was made
// before the directory was watched.
func (w *watcher) appeared(kind, path, to string, isDir bool) error {
	if err := w.change(kind, path, to); err != nil {
		return err
	}
	if !isDir || !w.recursive || kind == "moved" {
		return nil
	}
	err := w.add(path, func(child string) error { return w.change("created", child, "") })
	if err != nil && wire.AsFailure(err).Code == wire.CodeNotFound {
		return nil // gone again
	}
	return err
}

// rename corrects the paths of the watches below a directory that was moved.
func (w *watcher) rename(from, to string) {
	for id, path := range w.paths {
		if path == from || strings.HasPrefix(path, from+"/") {
			w.paths[id] = to + path[len(from):]
		}
	}
}

// settleMove reports a move whose second half did not come: out of what is watched.
func (w *watcher) settleMove() error {
	if w.cookie == 0 {
		return nil
	}
	w.cookie = 0
	for id, path := range w.paths {
		if path == w.moved || strings.HasPrefix(path, w.moved+"/") {
			_, _ = unix.InotifyRmWatch(w.fd, uint32(id))
			delete(w.paths, id)
		}
	}
	return w.change("removed", w.moved, "")
}

func (w *watcher) change(kind, path, to string) error {
	if key := kind + "\x00" + path; to == "" && kind != "removed" && kind != "created" {
		if key == w.last {
			return nil
		}
		w.last = key
	} else {
		w.last = ""
	}
	event := wire.ChangeEvent{Kind: "change", Type: kind, Path: []byte(path)}
	if to != "" {
		event.To = []byte(to)
	}
	return w.emit(event)
}

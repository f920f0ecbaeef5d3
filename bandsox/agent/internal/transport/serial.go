package transport

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"bandsox.dev/agent/internal/uevent"

	"golang.org/x/sys/unix"
)

const (
	portClass  = "/sys/class/virtio-ports"
	portPrefix = "org.bandsox."

	queueLength = 1024 // of a virtio-mmio device's queue (QEMU, hw/virtio/virtio-mmio.c)
	queuedShare = 6    // of the memory that may be queued for the first such port; the others get less
	leastWrite  = 4 << 10
	mostWrite   = 32 << 10 // what the driver takes at once

	// awayGrace is how long a host may seem to be away between two clients.
	awayGrace = 200 * time.Millisecond

	// untoldGrace is how long the driver may take to tell of a client whose bytes have arrived.
	// It tells of clients in one queue with the making of new ports, each of which takes a
	// tenth of a second and more under emulation.
	untoldGrace = 10 * time.Second
)

// Port is a virtio-serial port.
//
// What the driver does decides how it is used (Linux, drivers/char/virtio_console.c):
// a read while no host is connected returns 0 at once, so "readable" never changes
// when the host connects, and only an edge says so; a write while no host is connected
// blocks until one is; a read gives at most one page, a write takes at most 32 KiB. Hence
// blocking reads while a host is there, and a private edge-triggered epoll to wait for one.
type Port struct {
	fd, epoll int
	bulk      atomic.Bool // whether much was sent to the host that is there

	heard   bool // since the host was last seen away, bytes of a client have arrived
	greeted bool // since then, a client has greeted

	told   atomic.Bool // the driver has told of the connection of the client that was heard, or greeted, last
	unseen atomic.Bool // the client before that one was not seen to go
}

// OpenPort opens a port's device node.
func OpenPort(node string) (*Port, error) {
	fd, err := unix.Open(node, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: node, Err: err}
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err == nil {
		err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{
			Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLET, Fd: int32(fd),
		})
	}
	if err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "epoll", Path: node, Err: err}
	}
	return &Port{fd: fd, epoll: epoll}, nil
}

// Read returns io.EOF only when the host has stayed away for a moment. Data is taken in by the
// driver's interrupt, but a host's coming and going by a work queue behind it: so the end of the
// last client's connection, and the beginning of this one's, may be told after its first bytes,
// and before the next ones.
func (p *Port) Read(b []byte) (int, error) {
	var deadline time.Time
	for {
		n, err := readFD(p.fd, b)
		if err != io.EOF {
			if !p.heard && n > 0 {
				p.heard = true
				p.told.Store(p.connected())
			}
			return n, err
		}
		p.hostGone()
		if deadline.IsZero() {
			deadline = time.Now().Add(p.grace())
		}
		if !p.awaitNews(deadline) {
			p.forget()
			return n, err
		}
	}
}

// Greeted notes whether the driver has told of the client that has just greeted. A host that is there may
// still be the one of the client before, unless that one was seen to go.
func (p *Port) Greeted() {
	p.unseen.Store(p.greeted)
	p.told.Store(!p.greeted && (p.told.Load() || p.connected()))
	p.greeted = true
}

// Descriptor is the port: a host that has gone, or of which the driver has not told yet, counts as news.
func (p *Port) Descriptor() int { return p.fd }

// forget takes note that the client has gone.
func (p *Port) forget() {
	p.heard, p.greeted = false, false
	p.unseen.Store(false)
}

// Write takes a part of b that does not need too much of the kernel's memory; see writeSize.
func (p *Port) Write(b []byte) (int, error) {
	if len(b) > leastWrite {
		if !p.bulk.Swap(true) {
			bulkPorts.Add(1)
		}
		b = b[:min(len(b), writeSize(memory(), bulkPorts.Load()))]
	}
	n, err := writeFD(p.fd, b)
	if n > 0 && !p.unseen.Load() { // only when a host is connected can something be written, and it is not the one before
		p.told.Store(true)
	}
	return n, err
}

// bulkPorts is how many ports have sent much to the host that they last had.
var bulkPorts atomic.Int64

// hostGone takes note that nothing is queued for the host any more: the device drops it.
func (p *Port) hostGone() {
	if p.bulk.Swap(false) {
		bulkPorts.Add(-1)
	}
}

// writeSize is the longest write to one of so many ports that send much. The driver copies each write into memory
// of its own and queues as many as the device's queue has room for, while the host does not read. All ports
// together must leave the machine its memory; but the longest that the driver takes is the fastest.
func writeSize(memory uint64, ports int64) int {
	size := leastWrite
	for size < mostWrite && uint64(2*size)*queueLength*uint64(max(ports, 1)) <= memory/queuedShare {
		size *= 2
	}
	return size
}

// memory is how much the machine has, in bytes.
var memory = sync.OnceValue(func() uint64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return uint64(info.Totalram) * uint64(info.Unit)
})

// grace is how long a host may seem to be away: a moment, or longer when one that has not been told of must
// be there.
func (p *Port) grace() time.Duration {
	if p.heard && !p.told.Load() {
		return untoldGrace
	}
	return awayGrace
}

// awaitNews waits until a host is connected, or may have sent something before that is told. It is false when nothing of
// that kind came until the deadline.
func (p *Port) awaitNews(deadline time.Time) bool {
	if p.connected() {
		p.told.Store(true)
		return true
	}
	if p.told.Load() {
		p.forget()
	}
	left := time.Until(deadline).Milliseconds()
	if left <= 0 {
		return false
	}
	var events [1]unix.EpollEvent
	_, err := unix.EpollWait(p.epoll, events[:], int(left))
	return err == nil || err == unix.EINTR
}

// connected tells whether the driver knows of a host.
func (p *Port) connected() bool {
	state := []unix.PollFd{{Fd: int32(p.fd)}}
	_, err := unix.Poll(state, 0)
	return err == nil && state[0].Revents&unix.POLLHUP == 0
}

// AwaitHost returns at the port's next change. An edge from before the last read
// makes it return early, and the caller reads the end of the stream once more.
func (p *Port) AwaitHost() error {
	var events [1]unix.EpollEvent
	for {
		_, err := unix.EpollWait(p.epoll, events[:], -1)
		if err == nil {
			return nil
		}
		if err != unix.EINTR {
			return err
		}
	}
}

// Interrupt does nothing: the host's end of a port is the host's alone.
func (p *Port) Interrupt() {}

// Close gives the descriptors back.
func (p *Port) Close() {
	p.hostGone()
	unix.Close(p.epoll)
	unix.Close(p.fd)
}

// HasPorts tells whether the machine has a virtio-serial device. The driver binds to it
// while the module is loaded; its ports appear later.
func HasPorts() bool {
	devices, _ := filepath.Glob("/sys/bus/virtio/drivers/virtio_console/virtio*")
	return len(devices) > 0
}

// FindPorts calls found with each port of ours that is there or appears later. It only
// returns when the kernel's announcements cannot be heard any more. It holds paths while it looks at /sys and /dev.
func FindPorts(paths sync.Locker, found func(*Port)) error {
	events, err := uevent.Listen()
	if err != nil {
		return err
	}
	defer events.Close()
	known := map[string]bool{}
	for {
		paths.Lock()
		err := openNewPorts(known, found)
		paths.Unlock()
		if err != nil {
			return err
		}
		if err := events.Wait(); err != nil {
			return err
		}
	}
}

// openNewPorts opens the ports that have got their name since the last call. A port is
// usable once it has one: its node appears before the driver lets it be opened (ENXIO),
// its name after, with a uevent of its own.
func openNewPorts(known map[string]bool, found func(*Port)) error {
	entries, err := os.ReadDir(portClass)
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("listing ports: %w", err)
	}
	present := make(map[string]bool, len(entries))
	for _, entry := range entries {
		node := entry.Name()
		name, err := os.ReadFile(filepath.Join(portClass, node, "name"))
		if err != nil || !strings.HasPrefix(string(name), portPrefix) {
			continue
		}
		present[node] = true
		if known[node] {
			continue
		}
		port, err := OpenPort(filepath.Join("/dev", node))
		if err != nil {
			continue // gone again, or not there yet: the next uevent brings us back
		}
		known[node] = true
		found(port)
	}
	for node := range known {
		if !present[node] {
			delete(known, node)
		}
	}
	return nil
}

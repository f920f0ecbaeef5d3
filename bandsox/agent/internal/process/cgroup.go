package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// maxIdleGroups is how many empty cgroups are kept for the next processes: making and
// removing one costs more than the fork.
const maxIdleGroups = 4

// Groups hands out cgroups, one for each process with all that it starts.
//
// A group is given back when its process has ended. If background children still live in
// it, it lingers and is looked at again when a group is needed.
type Groups struct {
	dir string

	mu        sync.Mutex
	made      int
	idle      []*group
	lingering []*group
}

// NewGroups uses dir, a cgroup v2 directory, which it makes.
func NewGroups(dir string) (*Groups, error) {
	if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	return &Groups{dir: dir}, nil
}

// group is one cgroup. fd is its directory, events its cgroup.events.
type group struct {
	name       string
	fd, events int

	// killed groups are not used again: kernels from 6.14 on kill whatever is started into a
	// group that was ever killed from one that was not (Linux, kernel/cgroup/cgroup.c, kill_seq).
	killed atomic.Bool
}

func (g *Groups) get() (*group, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.idle) == 0 {
		g.sweep()
	}
	if n := len(g.idle); n > 0 {
		taken := g.idle[n-1]
		g.idle = g.idle[:n-1]
		return taken, nil
	}
	return g.create()
}

func (g *Groups) put(gr *group) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if gr.populated() {
		g.lingering = append(g.lingering, gr)
	} else {
		g.keep(gr)
	}
}

func (g *Groups) create() (*group, error) {
	gr := &group{events: -1}
	err := os.ErrExist
	for os.IsExist(err) { // an earlier agent's group, on a machine that is not ours
		g.made++
		gr.name = filepath.Join(g.dir, strconv.Itoa(g.made))
		err = os.Mkdir(gr.name, 0o755)
	}
	if err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	gr.fd, err = unix.Open(gr.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cgroup %s: %w", gr.name, err)
	}
	gr.events, err = unix.Openat(gr.fd, "cgroup.events", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		g.remove(gr)
		return nil, fmt.Errorf("cgroup %s: %w", gr.name, err)
	}
	return gr, nil
}

// sweep takes back the lingering groups that have become empty.
func (g *Groups) sweep() {
	still := g.lingering[:0]
	for _, gr := range g.lingering {
		if gr.populated() {
			still = append(still, gr)
		} else {
			g.keep(gr)
		}
	}
	clear(g.lingering[len(still):])
	g.lingering = still
}

func (g *Groups) keep(gr *group) {
	if len(g.idle) < maxIdleGroups && !gr.killed.Load() {
		g.idle = append(g.idle, gr)
	} else {
		g.remove(gr)
	}
}

func (g *Groups) remove(gr *group) {
	unix.Close(gr.fd)
	if gr.events >= 0 {
		unix.Close(gr.events)
	}
	_ = unix.Rmdir(gr.name)
}

func (gr *group) populated() bool {
	var buf [256]byte
	n, err := unix.Pread(gr.events, buf[:], 0)
	return err == nil && strings.Contains(string(buf[:n]), "populated 1")
}

// kill ends everything in the group and below it.
func (gr *group) kill() {
	gr.killed.Store(true)
	if gr.write("cgroup.kill", "1") == nil {
		return
	}
	gr.killEach()
}

// killEach does what cgroup.kill does, for kernels before 5.14: the group is frozen, so that
// nothing in it can fork while it is killed.
func (gr *group) killEach() {
	_ = gr.write("cgroup.freeze", "1")
	procs, err := os.ReadFile(filepath.Join(gr.name, "cgroup.procs"))
	if err == nil {
		for _, line := range strings.Fields(string(procs)) {
			if pid, err := strconv.Atoi(line); err == nil && pid > 1 {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
	}
	_ = gr.write("cgroup.freeze", "0")
}

// add moves a process into the group, for kernels that cannot start it there.
func (gr *group) add(pid int) error { return gr.write("cgroup.procs", strconv.Itoa(pid)) }

func (gr *group) write(file, content string) error {
	fd, err := unix.Openat(gr.fd, file, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(content))
	return err
}

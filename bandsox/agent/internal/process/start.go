package process

import (
	"context"
	"math"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

// defaultPath is what a process gets when neither the image nor the caller sets PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Defaults are what the image and the host have set for every process.
type Defaults struct {
	Env     map[string]string
	User    string
	Workdir string
}

// command is a request made complete: what execve gets.
type command struct {
	file    string
	argv    []string
	env     []string
	dir     string
	account Account
}

// resolve fills in what the request leaves open.
func resolve(request *wire.ExecRequest, defaults Defaults) (*command, error) {
	c := &command{argv: request.Argv, dir: request.Cwd}
	if request.Shell != nil {
		c.argv = []string{"/bin/sh", "-c", *request.Shell}
	}
	if len(c.argv) == 0 || c.argv[0] == "" || request.Shell != nil && request.Argv != nil {
		return nil, wire.Fail(wire.CodeInvalid, "exec needs either argv or shell")
	}
	if slices.ContainsFunc(c.argv, hasNUL) {
		return nil, wire.Fail(wire.CodeInvalid, "an argument with a NUL byte")
	}
	user := request.User
	if user == "" {
		user = defaults.User
	}
	var err error
	if c.account, err = LookupAccount(user); err != nil {
		return nil, err
	}
	if c.dir == "" {
		c.dir = defaults.Workdir
	}
	if c.dir == "" {
		c.dir = "/"
	}
	if err := checkDirectory(c.dir); err != nil {
		return nil, err
	}
	var searchPath string
	if c.env, searchPath, err = environment(request, defaults, c.account); err != nil {
		return nil, err
	}
	if c.file, err = lookProgram(c.argv[0], c.dir, searchPath); err != nil {
		return nil, err
	}
	return c, nil
}

// environment lays the request's variables over the defaults, and returns them as execve takes them, with the value of PATH. With clear_env
// the process gets exactly what the request lists.
func environment(request *wire.ExecRequest, defaults Defaults, account Account) (env []string, searchPath string, err error) {
	layers := []map[string]string{request.Env, defaults.Env} // upper ones first
	if request.ClearEnv {
		layers = layers[:1]
	}
	for key, value := range request.Env {
		if key == "" || strings.ContainsAny(key, "=\x00") || hasNUL(value) {
			return nil, "", wire.Fail(wire.CodeInvalid, "there can be no variable %q", key)
		}
	}
	env = make([]string, 0, len(request.Env)+len(defaults.Env)+3)
	for i, layer := range layers {
		for key, value := range layer {
			if _, covered := find(layers[:i], key); !covered {
				env = append(env, key+"="+value)
			}
		}
	}
	searchPath, hasPath := find(layers, "PATH")
	if request.ClearEnv {
		return env, searchPath, nil
	}
	if !hasPath {
		searchPath = defaultPath
		env = append(env, "PATH="+defaultPath)
	}
	if _, ok := find(layers, "HOME"); !ok {
		env = append(env, "HOME="+account.Home)
	}
	if _, ok := find(layers, "TERM"); !ok && request.TTY != nil {
		env = append(env, "TERM=xterm")
	}
	return env, searchPath, nil
}

// find looks a variable up in layers, the upper ones first.
func find(layers []map[string]string, key string) (string, bool) {
	for _, layer := range layers {
		if value, ok := layer[key]; ok {
			return value, true
		}
	}
	return "", false
}

// hasNUL tells whether the kernel would take the string for a shorter one.
func hasNUL(s string) bool { return strings.IndexByte(s, 0) >= 0 }

func checkDirectory(dir string) error {
	if dir == "/" {
		return nil
	}
	if !path.IsAbs(dir) {
		return wire.Fail(wire.CodeInvalid, "cwd %q is not absolute", dir)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return wire.FailPath(dir, &os.PathError{Op: "chdir", Path: dir, Err: err})
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return wire.FailPath(dir, &os.PathError{Op: "chdir", Path: dir, Err: unix.ENOTDIR})
	}
	return nil
}

// lookProgram finds a program as execvp does, seen from dir.
func lookProgram(name, dir, searchPath string) (string, error) {
	if strings.Contains(name, "/") {
		if fileKind(absolute(name, dir)) == unix.S_IFDIR {
			return "", execFailure(wire.CodeExecFailed, name, unix.EACCES)
		}
		return name, nil
	}
	if searchPath == "" {
		searchPath = defaultPath
	}
	found := ""
	for _, entry := range strings.Split(searchPath, ":") {
		if !path.IsAbs(entry) { // an empty one is the current directory
			entry = path.Join(dir, entry)
		}
		candidate := entry + "/" + name
		if fileKind(candidate) != unix.S_IFREG {
			continue
		}
		if unix.Access(candidate, unix.X_OK) == nil {
			return candidate, nil
		}
		found = candidate
	}
	if found != "" {
		return "", execFailure(wire.CodeExecFailed, found, unix.EACCES)
	}
	return "", execFailure(wire.CodeExecNotFound, name, unix.ENOENT)
}

func absolute(name, dir string) string {
	if path.IsAbs(name) {
		return name
	}
	return path.Join(dir, name)
}

// fileKind is the type bits of the file's mode, 0 when there is none.
func fileKind(name string) uint32 {
	var st unix.Stat_t
	if unix.Stat(name, &st) != nil {
		return 0
	}
	return st.Mode & unix.S_IFMT
}

func execFailure(code, name string, errno unix.Errno) error {
	f := wire.FailPath(name, &os.PathError{Op: "exec", Path: name, Err: errno})
	f.Code = code
	return f
}

// Start starts a process, with Detached as a session. Follow and Close of an attached one are
// the caller's. It waits while nothing may be started, having called held, and starts nothing once ctx has ended.
func (t *Table) Start(ctx context.Context, request *wire.ExecRequest, defaults Defaults, held func()) (*Process, error) {
	if !t.starting.TryRLock() {
		held()
		t.starting.RLock()
	}
	defer t.starting.RUnlock()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	c, err := resolve(request, defaults)
	if err != nil {
		return nil, err
	}
	p := &Process{
		table: t, groups: t.groups, Argv: c.argv, TTY: request.TTY != nil, Started: time.Now(),
		outputs: [2]output{noOutput, noOutput}, exitFD: -1, wakeFD: -1,
	}
	if !request.Detached {
		return p, t.launch(p, c, request)
	}
	if p.ID, err = t.reserve(request.Session); err != nil {
		return nil, err
	}
	p.rings = &[2]ring{{space: p.wake}, {space: p.wake}}
	if p.wakeFD, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err == nil {
		err = t.launch(p, c, request)
	}
	if err != nil {
		t.settle(p.ID, nil)
		return nil, wire.AsFailure(err)
	}
	t.settle(p.ID, p)
	go p.keep()
	return p, nil
}

// launch makes the pipes or the terminal and starts the program.
func (t *Table) launch(p *Process, c *command, request *wire.ExecRequest) error {
	stdin, err := p.openStreams(request, c.account.UID)
	if err == nil {
		err = t.fork(p, c, stdin)
	}
	if request.Stdin && stdin >= 0 && !p.TTY {
		unix.Close(stdin)
	}
	if err != nil {
		p.abort()
		return err
	}
	if request.TimeoutMS > 0 {
		limit := min(request.TimeoutMS, math.MaxInt64/int64(time.Millisecond))
		p.setTimer(time.Duration(limit) * time.Millisecond)
	}
	return nil
}

// abort closes what was opened for a program that did not start.
func (p *Process) abort() {
	if p.input != nil {
		p.input.close()
	}
	p.closeOutputs()
	if p.wakeFD >= 0 {
		unix.Close(p.wakeFD)
	}
}

// noOutput is an output that a process does not have of its own.
var noOutput = output{fd: -1, other: -1, rest: endless}

// openStreams opens what the process reads and writes, and returns its end of stdin.
func (p *Process) openStreams(request *wire.ExecRequest, uid uint32) (int, error) {
	if request.TTY != nil {
		out := &p.outputs[0]
		var err error
		if p.terminal, out.fd, out.other, err = openTerminal(*request.TTY, uid); err != nil {
			return -1, wire.AsFailure(err)
		}
		p.input = newInput(p.terminal, true)
		return out.other, nil
	}
	stdin, err := p.openInput(request.Stdin)
	if err != nil {
		return stdin, wire.AsFailure(err)
	}
	outputs := 2
	if request.MergeStderr {
		outputs = 1
	}
	for i := range outputs {
		var fds [2]int
		if err := syscall.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
			return stdin, wire.AsFailure(os.NewSyscallError("pipe", err))
		}
		p.outputs[i].fd, p.outputs[i].other = fds[0], fds[1]
	}
	return stdin, nil
}

// openInput returns the child's stdin. Our end of a pipe goes through Go's poller, since a
// write to it must be able to end early.
func (p *Process) openInput(wanted bool) (int, error) {
	if !wanted {
		return nullDevice()
	}
	var fds [2]int
	if err := syscall.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return -1, os.NewSyscallError("pipe", err)
	}
	if err := unix.SetNonblock(fds[1], true); err != nil {
		unix.Close(fds[1])
		return fds[0], os.NewSyscallError("fcntl", err)
	}
	p.input = newInput(os.NewFile(uintptr(fds[1]), "stdin"), false)
	return fds[0], nil
}

// nullDevice is opened once: almost every process gets it.
var nullDevice = sync.OnceValues(func() (int, error) {
	return unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
})

// childFiles are the child's descriptors 0, 1 and 2.
func (p *Process) childFiles(stdin int) []uintptr {
	stdout := p.outputs[0].other
	stderr := p.outputs[1].other
	if stderr < 0 { // merged, or a terminal
		stderr = stdout
	}
	return []uintptr{uintptr(stdin), uintptr(stdout), uintptr(stderr)}
}

// fork starts the program and registers it.
func (t *Table) fork(p *Process, c *command, stdin int) error {
	attr := &syscall.ProcAttr{
		Dir:   c.dir,
		Env:   c.env,
		Files: p.childFiles(stdin),
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: p.TTY, PidFD: &p.exitFD},
	}
	if a := c.account; a.UID != 0 || a.GID != 0 || len(a.Groups) > 0 {
		attr.Sys.Credential = &syscall.Credential{Uid: a.UID, Gid: a.GID, Groups: a.Groups}
	}
	if p.groups != nil {
		var err error
		if p.group, err = p.groups.get(); err != nil {
			return wire.AsFailure(err)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	resetTimerSlack()
	pid, err := t.forkInGroup(p, c, attr)
	if err != nil {
		if p.group != nil {
			p.groups.put(p.group)
		}
		code := wire.CodeExecFailed
		if err == syscall.ENOENT && fileKind(absolute(c.file, c.dir)) == 0 {
			code = wire.CodeExecNotFound
		}
		return execFailure(code, c.file, err.(syscall.Errno))
	}
	p.Pid = pid
	if p.hasPidfd = p.exitFD >= 0; !p.hasPidfd { // a kernel before 5.4
		p.exitFD, _ = unix.Eventfd(0, unix.EFD_CLOEXEC)
	}
	t.byPid[pid] = p
	t.waiting = false
	return nil
}

// resetTimerSlack gives this thread, and thereby what it forks, the timer slack that every process
// of a Linux system begins with. Threads may have inherited another one from the runtime's monitor,
// with which each sleep of a program would last too long.
func resetTimerSlack() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, initialTimerSlack, 0, 0, 0) }

// initialTimerSlack is 50 µs, in ns (Linux, init/init_task.c).
const initialTimerSlack = 50_000

// forkInGroup starts the program inside its cgroup, where the kernel can do that (5.7).
func (t *Table) forkInGroup(p *Process, c *command, attr *syscall.ProcAttr) (int, error) {
	if p.group == nil {
		return syscall.ForkExec(c.file, c.argv, attr)
	}
	attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, p.group.fd
	pid, err := syscall.ForkExec(c.file, c.argv, attr)
	if err != syscall.ENOSYS && err != syscall.EINVAL && err != syscall.EBUSY && err != syscall.EOPNOTSUPP {
		return pid, err
	}
	attr.Sys.UseCgroupFD = false
	pid, err = syscall.ForkExec(c.file, c.argv, attr)
	if err == nil {
		_ = p.group.add(pid)
	}
	return pid, err
}

func (p *Process) setTimer(limit time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.exit == nil {
		p.timer = time.AfterFunc(limit, p.timeOut)
	}
}

package keeper

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// The filter's files in the machine's directory: where it takes commands, and what it writes down.
	filterSocket = "network.sock"
	filterQueue  = 16

	// nobody is who root's filter is: it reads what comes from the guest.
	nobody = 65534

	// largestRoots is the largest file of authorities, in bytes.
	largestRoots = 4 << 20

	// uplinkedWord is what the filter reads second, when there is an uplink.
	uplinkedWord = "true\n"

	// highDescriptor is above all that a child is given.
	highDescriptor = 64
)

var filterLogs = [2]string{"connections.0", "connections.1"}

// filterProcess is the program that decides what gets through, once it was started.
type filterProcess struct {
	mu      sync.Mutex
	socket  int // listens for it
	process *os.Process
}

func (f *filterProcess) is(pid int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.process != nil && f.process.Pid == pid
}

// uplinkChanged tells the filter, if there is one, that there is another uplink.
func (f *filterProcess) uplinkChanged() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.process != nil {
		_ = f.process.Signal(unix.SIGHUP)
	}
}

// listen makes the socket on which the filter takes commands.
func (f *filterProcess) listen() error {
	if err := os.Remove(filterSocket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f.socket = fd
	return errors.Join(unix.Fchmod(fd, 0o600), unix.Bind(fd, &unix.SockaddrUnix{Name: filterSocket}), unix.Listen(fd, filterQueue))
}

// keepFilter starts the filter when the first command waits for it, and returns when it has ended.
func (n *network) keepFilter(config *Config) error {
	if config.Filter.Program == "" {
		select {}
	}
	if n.filter.process == nil {
		if err := awaitEnd(n.filter.socket); err != nil { // readable: somebody has connected
			return err
		}
		if err := n.startFilter(config, "", func() error { return nil }); err != nil {
			return err
		}
	}
	pidfd, err := unix.PidfdOpen(n.filter.process.Pid, 0)
	if err == nil {
		err = awaitEnd(pidfd)
	}
	return errors.Join(err, errors.New("the filter has ended, and with it the machine's network"))
}

// startFilter returns when the filter's rules are in force.
//
// rules are to be in force with them, first; uplinked returns when there is an uplink, which the filter limits.
func (n *network) startFilter(config *Config, rules string, uplinked func() error) error {
	err := n.inside(func() error {
		return n.filter.start(&config.Filter, given{config.Filter.Config, rules, n.host, n.resolvers, ""}, uplinked)
	})
	if err != nil {
		return fmt.Errorf("the filter: %w", err)
	}
	return nil
}

// given is what the filter reads first (cmd/bandsox-filter).
type given struct {
	Config    json.RawMessage `json:"config"`
	Rules     string          `json:"rules"`
	Host      []netip.Addr    `json:"host"`
	Resolvers []netip.Addr    `json:"resolvers"`
	Roots     string          `json:"roots"`
}

func (f *filterProcess) start(config *Filter, first given, uplinked func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var err error
	if first.Roots, err = readRoots(config.Roots); err != nil {
		return err
	}
	input, err := json.Marshal(first)
	if err != nil {
		return err
	}
	files := []*os.File{os.NewFile(uintptr(f.socket), filterSocket)}
	for _, name := range filterLogs {
		file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return err
		}
		defer file.Close()
		files = append(files, file)
	}
	program, err := openHigh(config.Program)
	if err != nil {
		return err
	}
	defer unix.Close(program)
	said, heard, err := os.Pipe()
	if err != nil {
		return err
	}
	defer said.Close()
	command := &exec.Cmd{
		Path:       fmt.Sprintf("/proc/self/fd/%d", program), // its own path may be none that nobody can go
		Args:       []string{"bandsox-filter"},
		Env:        []string{},
		Stdout:     heard,
		Stderr:     os.Stderr,
		ExtraFiles: files,
	}
	if os.Getuid() == 0 && !inUserNamespace() {
		command.SysProcAttr = &syscall.SysProcAttr{
			Credential:  &syscall.Credential{Uid: nobody, Gid: nobody},
			AmbientCaps: []uintptr{unix.CAP_NET_ADMIN},
		}
	}
	telling, err := command.StdinPipe()
	if err != nil {
		return err
	}
	defer telling.Close()
	err = command.Start()
	heard.Close()
	if err != nil {
		return err
	}
	f.process = command.Process
	_, unheard := telling.Write(input)
	if err := uplinked(); err != nil {
		return err
	}
	if unheard == nil {
		_, unheard = telling.Write([]byte(uplinkedWord))
	}
	word, err := bufio.NewReader(io.LimitReader(said, largest)).ReadString('\n')
	if word = strings.TrimSpace(word); word == "ready" {
		return nil
	}
	return errors.Join(errors.New(word), err, unheard)
}

// readRoots reads a file of authorities, of bounded size.
func readRoots(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("the file of trusted authorities: %w", err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, largestRoots+1))
	if err == nil && len(content) > largestRoots {
		err = errors.New("it is too large")
	}
	if err != nil {
		return "", fmt.Errorf("the file of trusted authorities: %w", err)
	}
	return string(content), nil
}

// openHigh opens a program at a descriptor that none of a child's replaces.
func openHigh(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(fd)
	return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, highDescriptor)
}

// inUserNamespace tells whether this process is root of a user namespace only, in which there is nobody else.
func inUserNamespace() bool {
	identities, err := os.ReadFile("/proc/self/uid_map")
	return err != nil || strings.Join(strings.Fields(string(identities)), " ") != "0 0 4294967295"
}

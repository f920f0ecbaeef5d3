package transport

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"bandsox.dev/agent/internal/line"

	"golang.org/x/sys/unix"
)

// activeConsoles lists the kernel's consoles, the one that /dev/console stands for last.
const activeConsoles = "/sys/class/tty/console/active"

// Console serves streams over the machine's serial console, for kernels without vsock. The kernel and programs
// go on printing on it.
type Console struct{ line *line.Line }

// OpenConsole takes the console for the line to the host.
func OpenConsole() (*Console, error) {
	active, err := os.ReadFile(activeConsoles)
	if err != nil {
		return nil, err
	}
	names := strings.Fields(string(active))
	if len(names) == 0 {
		return nil, fmt.Errorf("the kernel has no console to use (console=…)")
	}
	return openTerminal(filepath.Join("/dev", names[len(names)-1]))
}

func openTerminal(path string) (*Console, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	if err := makeRaw(fd); err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "tcsetattr", Path: path, Err: err}
	}
	c := &Console{line.New(line.Guest, terminal(fd), terminal(fd), func([]byte) {}, false)}
	go func() { _ = c.line.Run() }() // Accept tells when it has ended
	return c, nil
}

// Accept returns the host's next connection.
func (c *Console) Accept() (Channel, error) {
	for {
		stream, err := c.line.Accept()
		if err != nil {
			return nil, fmt.Errorf("console: %w", err)
		}
		if stream.Port() == VsockPort {
			return consoleStream{stream}, nil
		}
		stream.Reset()
	}
}

// makeRaw lets input through as it is, at the highest speed: the speed is that of the kernel's time limits, no
// hypervisor keeps to it. Output stays as it was, for what programs print: a frame has no byte that
// it would change.
func makeRaw(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Iflag = unix.IGNBRK
	t.Lflag = 0
	t.Cflag = t.Cflag&^(unix.CBAUD|unix.CSIZE|unix.CSTOPB|unix.PARENB|unix.CRTSCTS) | unix.B115200 | unix.CS8 | unix.CREAD | unix.CLOCAL
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	return unix.IoctlSetTermios(fd, unix.TCSETS, t)
}

// terminal is a blocking descriptor.
type terminal int

func (t terminal) Read(p []byte) (int, error)  { return readFD(int(t), p) }
func (t terminal) Write(p []byte) (int, error) { return writeFD(int(t), p) }

// consoleStream is a stream of the console's line as a Channel.
type consoleStream struct{ *line.Stream }

func (s consoleStream) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	if err == line.ErrReset {
		err = io.EOF
	}
	return n, err
}

// Greeted does nothing: a stream has one client.
func (s consoleStream) Greeted() {}

// Descriptor says that there is none: streams share the line.
func (s consoleStream) Descriptor() int { return -1 }

// AwaitHost returns an error: a stream's client does not come back.
func (s consoleStream) AwaitHost() error { return io.EOF }

// Interrupt ends the stream in both directions; what was written still goes out.
func (s consoleStream) Interrupt() { s.Stream.Close() }

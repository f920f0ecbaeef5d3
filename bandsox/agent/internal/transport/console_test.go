package transport

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"bandsox.dev/agent/internal/line"

	"golang.org/x/sys/unix"
)

// openPair opens a pseudo-terminal, whose master end stands for the serial port's other side.
func openPair(t *testing.T) (master *os.File, slave string) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	master = os.NewFile(uintptr(fd), "ptmx")
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	return master, filepath.Join("/dev/pts", strconv.Itoa(number))
}

func TestATerminalCarriesEveryByteWhileProgramsPrint(t *testing.T) {
	master, slave := openPair(t)
	console, err := openTerminal(slave)
	if err != nil {
		t.Fatal(err)
	}
	var printed bytes.Buffer
	host := line.New(line.Host, master, master, func(p []byte) { printed.Write(p) }, false)
	ended := make(chan struct{})
	go func() { defer close(ended); _ = host.Run() }()
	stream, err := host.Open(VsockPort)
	if err != nil {
		t.Fatal(err)
	}
	channel, err := console.Accept()
	if err != nil {
		t.Fatal(err)
	}

	content := make([]byte, 300_000)
	for i := range content {
		content[i] = byte(i + i/256)
	}
	const message = "a program prints this\n"
	var group sync.WaitGroup
	group.Add(3)
	go func() {
		defer group.Done()
		program, err := os.OpenFile(slave, os.O_WRONLY|unix.O_NOCTTY, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer program.Close()
		for range 200 {
			_, _ = io.WriteString(program, message)
		}
	}()
	go func() {
		defer group.Done()
		_, _ = stream.Write(content)
		stream.CloseWrite()
	}()
	go func() { // the guest sends it back
		defer group.Done()
		_, _ = io.Copy(struct{ io.Writer }{channel}, channel)
		channel.Interrupt()
	}()
	got, err := io.ReadAll(stream)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	group.Wait()
	if channel.AwaitHost() == nil {
		t.Error("a stream's client does not come back")
	}
	channel.Close()
	master.Close()
	<-ended
	if want := strings.ReplaceAll(message, "\n", "\r\n"); strings.Count(printed.String(), want) != 200 {
		t.Errorf("%d of 200 messages", strings.Count(printed.String(), want))
	}
}

func TestAStreamToAnotherPortIsRefused(t *testing.T) {
	master, slave := openPair(t)
	console, err := openTerminal(slave)
	if err != nil {
		t.Fatal(err)
	}
	host := line.New(line.Host, master, master, func([]byte) {}, false)
	go func() { _ = host.Run() }()
	go func() { _, _ = console.Accept() }()
	stream, err := host.Open(VsockPort + 1)
	if err != nil {
		t.Fatal(err)
	}
	if stream.Accepted() {
		t.Error("somebody serves it")
	}
}

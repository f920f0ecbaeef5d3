// Command bandsox-serial-relay runs beside a machine whose kernel has no vsock: it carries the connections of
// a Unix socket over the machine's serial console, and keeps the console's log.
//
// It opens nothing: the listening socket, both directions of the console and the log are descriptors that it
// inherits. It ends when the console does, that is with the machine.
package main

import (
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"runtime"
	"runtime/debug"

	"bandsox.dev/agent/internal/line"
	"bandsox.dev/agent/internal/relay"

	"golang.org/x/sys/unix"
)

func main() {
	listen := flag.Int("listen", -1, "descriptor of the listening Unix socket")
	in := flag.Int("from-guest", -1, "descriptor of what the guest prints")
	out := flag.Int("to-guest", -1, "descriptor of what the guest reads")
	log := flag.Int("log", -1, "descriptor of the console's log")
	limit := flag.Int64("log-limit", math.MaxInt64, "how many bytes long the log's file may become")
	resume := flag.Bool("resume", false, "the guest runs: begin a session without waiting for its word")
	flag.Parse()
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(50)
	if err := run(*listen, *in, *out, *log, *limit, *resume); err != nil {
		fmt.Fprintln(os.Stderr, "bandsox-serial-relay:", err)
		os.Exit(1)
	}
}

func run(listen, in, out, log int, limit int64, resume bool) error {
	listener, err := inheritListener(listen)
	if err != nil {
		return err
	}
	fromGuest, err := inherit(in, "from-guest")
	if err != nil {
		return err
	}
	toGuest, err := inherit(out, "to-guest")
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(log), "log")
	info, err := file.Stat()
	if err != nil {
		return err
	}
	console := relay.Log(file, limit-info.Size())
	l := line.New(line.Host, fromGuest, toGuest, console, resume)
	failed := make(chan error, 2)
	go func() { failed <- relay.Serve(listener, l) }()
	go func() { failed <- l.Run() }()
	if err := <-failed; err != io.EOF {
		return err
	}
	return nil
}

// inherit makes a file of a descriptor so that waiting for it costs no thread.
func inherit(fd int, name string) (*os.File, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func inheritListener(fd int) (*net.UnixListener, error) {
	file := os.NewFile(uintptr(fd), "listen")
	listener, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	_ = file.Close() // FileListener has its own copy
	unixListener, ok := listener.(*net.UnixListener)
	if !ok {
		return nil, fmt.Errorf("listen: a %s, not a Unix socket", listener.Addr().Network())
	}
	unixListener.SetUnlinkOnClose(false)
	return unixListener, nil
}

package process

import (
	"context"
	"errors"
	"os"
	"time"

	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

// input is the way into a process's stdin or terminal. Several clients may write; each
// write goes in as a whole.
type input struct {
	file     *os.File
	terminal bool
	turn     chan struct{} // holds a token while nobody writes
}

func newInput(file *os.File, terminal bool) *input {
	in := &input{file: file, terminal: terminal, turn: make(chan struct{}, 1)}
	in.turn <- struct{}{}
	return in
}

// write returns when the program's pipe or terminal took everything. What a program that
// has closed its stdin or ended does not take is not an error, as for a shell's pipe.
func (in *input) write(ctx context.Context, data []byte) (int, error) {
	select {
	case <-in.turn:
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	defer func() { in.turn <- struct{}{} }()
	_ = in.file.SetWriteDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { _ = in.file.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	for written := 0; ; {
		n, err := in.file.Write(data[written:])
		written += n
		switch {
		case ctx.Err() != nil:
			return written, context.Cause(ctx)
		case errors.Is(err, os.ErrDeadlineExceeded): // meant for the writer before us
			_ = in.file.SetWriteDeadline(time.Time{})
		case err == nil, errors.Is(err, unix.EPIPE), errors.Is(err, unix.EIO), errors.Is(err, os.ErrClosed):
			return written, nil
		default:
			return written, wire.AsFailure(err)
		}
	}
}

// end closes a pipe. A terminal has no end; a program reading lines from it takes the
// end-of-file character for one.
func (in *input) end(ctx context.Context) error {
	if !in.terminal {
		in.close()
		return nil
	}
	eof, ok := eofCharacter(in.file)
	if !ok {
		return nil
	}
	_, err := in.write(ctx, []byte{eof})
	return err
}

// close also wakes a writer that waits for the program to read.
func (in *input) close() {
	if !in.terminal {
		in.file.Close()
	}
}

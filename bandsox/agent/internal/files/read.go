package files

import (
	"bytes"
	"errors"
	"io"
	"os"

	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

// defaultMaxBytes bounds the answer to lines when the host does not.
const defaultMaxBytes = 64 << 20

// open opens for reading. A FIFO does not make it wait for a writer.
func open(path string) (*os.File, *unix.Stat_t, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, pathError("open", path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, nil, pathError("stat", path, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		unix.Close(fd)
		return nil, nil, pathError("read", path, unix.EISDIR)
	}
	return os.NewFile(uintptr(fd), path), &st, nil
}

// Read copies a file, or the part of it from offset on that is at most length long.
func Read(request *wire.FileRequest, out io.Writer) (*wire.ReadResult, error) {
	file, st, err := open(request.Path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if request.Offset != nil && *request.Offset != 0 {
		if _, err := file.Seek(*request.Offset, io.SeekStart); err != nil {
			return nil, wire.FailPath(request.Path, err)
		}
	}
	var in io.Reader = file
	if request.Length != nil {
		in = io.LimitReader(file, max(0, *request.Length))
	}
	if _, err := io.Copy(out, in); err != nil {
		return nil, wire.FailPath(request.Path, err)
	}
	return &wire.ReadResult{FileSize: st.Size}, nil
}

// Lines copies whole lines. It looks for their ends first and copies then, so that its memory
// does not depend on how long a line is.
func Lines(request *wire.FileRequest, out io.Writer) (*wire.LinesResult, error) {
	file, _, err := open(request.Path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	scan := lineScan{limit: request.Limit, budget: defaultMaxBytes}
	if request.Offset != nil {
		scan.skip = *request.Offset
	}
	if request.MaxBytes != nil {
		scan.budget = *request.MaxBytes
	}
	if scan.skip < 0 || scan.limit < 0 || scan.budget < 0 {
		return nil, wire.Fail(wire.CodeInvalid, "offset, limit and max_bytes cannot be negative")
	}
	if err := scan.run(file); err != nil {
		return nil, wire.FailPath(request.Path, err)
	}
	part := io.NewSectionReader(file, scan.from, scan.to-scan.from)
	if _, err := io.Copy(out, part); err != nil {
		return nil, wire.FailPath(request.Path, err)
	}
	return &scan.result, nil
}

// lineScan finds the byte range [from, to) of the wanted lines and counts the others.
type lineScan struct {
	skip, limit, budget int64

	from, to int64
	line     int64 // lines ended so far
	full     bool  // no further line is wanted
	result   wire.LinesResult
}

func (s *lineScan) run(file io.ReaderAt) error {
	buf := wire.NewBuffer()
	defer buf.Free()
	var base, lineStart int64
	for {
		block := buf.Space()
		n, err := file.ReadAt(block, base)
		block = block[:n]
		for at := 0; ; {
			i := bytes.IndexByte(block[at:], '\n')
			if i < 0 {
				break
			}
			at += i + 1
			s.endLine(lineStart, base+int64(at))
			lineStart = base + int64(at)
		}
		base += int64(n)
		if errors.Is(err, io.EOF) {
			if lineStart < base {
				s.endLine(lineStart, base)
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (s *lineScan) endLine(start, end int64) {
	defer func() { s.line++ }()
	r := &s.result
	switch {
	case s.line < s.skip:
		r.Skipped++
		s.from, s.to = end, end
	case s.full:
		r.Left++
	case s.limit > 0 && r.Returned == s.limit:
		s.full = true
		r.Left++
	case end-s.from > s.budget:
		s.full, r.Truncated = true, true
		r.Left++
	default:
		s.to = end
		r.Returned++
	}
}

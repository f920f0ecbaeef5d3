// Package files does what the host asks for with the guest's files. Paths are the guest's
// own, as root sees them; only archives, whose names nobody vouches for, are confined (see
// package archive).
package files

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

// entriesPerEvent bounds one part of a listing.
const entriesPerEvent = 512

// CheckPath refuses what is not an absolute path.
func CheckPath(path string) error {
	if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
		return &wire.Failure{Code: wire.CodeInvalid, Message: "not an absolute path", Path: []byte(path)}
	}
	return nil
}

func pathError(op, path string, err error) error {
	return wire.FailPath(path, &os.PathError{Op: op, Path: path, Err: err})
}

// Stat describes a file.
func Stat(path string, follow bool) (*wire.FileStat, error) {
	return statAt(unix.AT_FDCWD, path, path, follow)
}

func statAt(dir int, name, path string, follow bool) (*wire.FileStat, error) {
	flags := unix.AT_SYMLINK_NOFOLLOW
	if follow {
		flags = 0
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, flags); err != nil {
		return nil, pathError("stat", path, err)
	}
	out := describe(&st)
	if out.Type == "symlink" {
		var target [unix.PathMax]byte
		if n, err := unix.Readlinkat(dir, name, target[:]); err == nil {
			out.Target = append([]byte{}, target[:n]...)
		}
	}
	return out, nil
}

func describe(st *unix.Stat_t) *wire.FileStat {
	return &wire.FileStat{
		Type:  TypeName(uint32(st.Mode)),
		Size:  st.Size,
		Mode:  uint32(st.Mode) & 0o7777,
		UID:   st.Uid,
		GID:   st.Gid,
		MTime: float64(st.Mtim.Sec) + float64(st.Mtim.Nsec)/1e9,
		Nlink: uint64(st.Nlink),
		Ino:   st.Ino,
	}
}

// TypeName is what the protocol calls a type of file.
func TypeName(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFLNK:
		return "symlink"
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFCHR:
		return "char"
	case unix.S_IFBLK:
		return "block"
	}
	return "file"
}

// List hands the directory's entries to emit in parts. An entry that disappears meanwhile
// is left out.
func List(path string, emit func([]wire.FileStat) error) error {
	dir, err := os.OpenFile(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return wire.FailPath(path, err)
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(entriesPerEvent)
		if len(names) == 0 {
			if err != nil && !errors.Is(err, io.EOF) {
				return wire.FailPath(path, err)
			}
			return nil
		}
		part := make([]wire.FileStat, 0, len(names))
		for _, name := range names {
			st, err := statAt(int(dir.Fd()), name, path, false)
			if err != nil {
				continue
			}
			st.Name = []byte(name)
			part = append(part, *st)
		}
		if err := emit(part); err != nil {
			return err
		}
	}
}

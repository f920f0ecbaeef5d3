package files

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"

	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

const defaultMode = 0o644

// maxSymlinks is how many symlinks the kernel follows in a path.
const maxSymlinks = 40

// Write stores what in gives. in ends with io.EOF only when everything the host sent has
// arrived unchanged; with any other error nothing stays: a whole file has not appeared under
// its name, and what was appended is cut off again.
func Write(request *wire.FileRequest, in io.Reader) (*wire.WriteResult, error) {
	path := request.Path
	if request.Parents {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, wire.FailPath(path, err)
		}
	}
	var size int64
	var err error
	switch {
	case request.Append:
		size, err = writeInPlace(request, in, unix.O_APPEND|unix.O_CREAT)
	case request.Offset != nil:
		size, err = writeInPlace(request, in, unix.O_CREAT)
	default:
		size, err = writeWhole(request, in)
	}
	if err != nil {
		return nil, wire.FailPath(path, err)
	}
	return &wire.WriteResult{Size: size}, nil
}

// writeWhole replaces the file under its name at once. Special files, and file systems such
// as /proc where no file can be made, are written in place.
func writeWhole(request *wire.FileRequest, in io.Reader) (int64, error) {
	target, st, err := followName(request.Path)
	if err != nil {
		return 0, err
	}
	if st != nil && request.Exclusive {
		return 0, unix.EEXIST
	}
	if st != nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		return writeInPlace(request, in, unix.O_TRUNC)
	}
	temporary, err := createTemporary(filepath.Dir(target))
	if err != nil {
		if st != nil && !errors.Is(err, unix.ENOSPC) {
			return writeInPlace(request, in, unix.O_TRUNC)
		}
		return 0, err
	}
	size, err := fillTemporary(temporary, request, st, in)
	if err == nil {
		var flags uint
		if request.Exclusive {
			flags = unix.RENAME_NOREPLACE
		}
		err = unix.Renameat2(unix.AT_FDCWD, temporary.Name(), unix.AT_FDCWD, target, flags)
	}
	if err != nil {
		_ = os.Remove(temporary.Name())
		return 0, err
	}
	return size, nil
}

// followName finds the name behind symlinks that path stands for, and what is there now.
func followName(path string) (string, *unix.Stat_t, error) {
	for range maxSymlinks {
		var st unix.Stat_t
		err := unix.Lstat(path, &st)
		switch {
		case err == unix.ENOENT:
			return path, nil, nil
		case err != nil:
			return "", nil, err
		case st.Mode&unix.S_IFMT == unix.S_IFDIR:
			return "", nil, unix.EISDIR
		case st.Mode&unix.S_IFMT != unix.S_IFLNK:
			return path, &st, nil
		}
		link, err := os.Readlink(path)
		if err != nil {
			return "", nil, err
		}
		if filepath.IsAbs(link) {
			path = link
		} else { // not cleaned: ".." means the parent of where a symlink leads
			path = filepath.Dir(path) + "/" + link
		}
	}
	return "", nil, unix.ELOOP
}

func createTemporary(dir string) (*os.File, error) {
	var random [8]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, err
	}
	name := dir + "/.bandsox-" + hex.EncodeToString(random[:]) + ".tmp"
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

// fillTemporary gives the new file its content, then its owner and mode: those asked for,
// else those of the file it replaces. It closes the file.
func fillTemporary(file *os.File, request *wire.FileRequest, replaced *unix.Stat_t, in io.Reader) (int64, error) {
	defer file.Close()
	size, err := io.Copy(file, in)
	if err != nil {
		return 0, err
	}
	uid, gid, mode := 0, 0, uint32(defaultMode)
	if replaced != nil {
		uid, gid, mode = int(replaced.Uid), int(replaced.Gid), uint32(replaced.Mode)&0o7777
	}
	uid, gid = orElse(request.UID, uid), orElse(request.GID, gid)
	if err := file.Chown(uid, gid); err != nil {
		return 0, err
	}
	if err := unix.Fchmod(int(file.Fd()), orElse(request.Mode, mode)); err != nil {
		return 0, err
	}
	return size, file.Close()
}

// writeInPlace writes into the file as it stands: at its end, at an offset, or over a special
// file's content.
func writeInPlace(request *wire.FileRequest, in io.Reader, flags int) (int64, error) {
	if request.Exclusive {
		flags |= unix.O_EXCL
	}
	mode := orElse(request.Mode, defaultMode)
	created := unix.Access(request.Path, unix.F_OK) == unix.ENOENT
	fd, err := unix.Open(request.Path, unix.O_WRONLY|unix.O_CLOEXEC|flags, mode)
	if err != nil {
		return 0, err
	}
	file := os.NewFile(uintptr(fd), request.Path)
	defer file.Close()
	var before unix.Stat_t
	if err := unix.Fstat(fd, &before); err != nil {
		return 0, err
	}
	if before.Mode&unix.S_IFMT == unix.S_IFREG { // a device's owner and mode are not its content's
		if err := applyOwner(file, request); err != nil {
			return 0, err
		}
	}
	if request.Offset != nil && !request.Append {
		if _, err := file.Seek(*request.Offset, io.SeekStart); err != nil {
			return 0, err
		}
	}
	size, err := io.Copy(file, in)
	switch {
	case err == nil:
		return size, nil
	case created:
		_ = os.Remove(request.Path)
	case request.Append && before.Mode&unix.S_IFMT == unix.S_IFREG:
		_ = unix.Ftruncate(fd, before.Size)
	}
	return 0, err
}

func applyOwner(file *os.File, request *wire.FileRequest) error {
	if request.UID != nil || request.GID != nil {
		if err := file.Chown(orElse(request.UID, -1), orElse(request.GID, -1)); err != nil {
			return err
		}
	}
	if request.Mode != nil {
		return unix.Fchmod(int(file.Fd()), *request.Mode)
	}
	return nil
}

func orElse[T any](given *T, otherwise T) T {
	if given == nil {
		return otherwise
	}
	return *given
}

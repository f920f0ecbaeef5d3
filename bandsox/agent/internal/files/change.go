package files

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

// Mkdir makes a directory, with parents also those above it; with parents an existing
// directory is fine, as for mkdir -p. Mode and owner go to the last one, when it is new.
func Mkdir(request *wire.FileRequest) error {
	path := filepath.Clean(request.Path)
	if request.Parents {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return wire.FailPath(path, err)
		}
	}
	err := os.Mkdir(path, 0o755)
	if request.Parents && errors.Is(err, fs.ErrExist) {
		if info, statErr := os.Stat(path); statErr == nil && info.IsDir() {
			return nil
		}
	}
	if err != nil {
		return wire.FailPath(path, err)
	}
	if request.UID != nil || request.GID != nil {
		if err := os.Chown(path, orElse(request.UID, -1), orElse(request.GID, -1)); err != nil {
			return wire.FailPath(path, err)
		}
	}
	// The umask does not count for what was asked for by number.
	if err := unix.Chmod(path, orElse(request.Mode, 0o755)); err != nil {
		return pathError("chmod", path, err)
	}
	return nil
}

// Remove removes a file, an empty directory, or with recursive a whole tree. Symlinks are
// removed, never followed.
func Remove(path string, recursive bool) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return pathError("remove", path, err)
	}
	var err error
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		err = unix.Unlink(path)
	case recursive:
		return failAt(path, os.RemoveAll(path))
	default:
		err = unix.Rmdir(path)
	}
	if err != nil {
		return pathError("remove", path, err)
	}
	return nil
}

// Rename moves a file within its file system.
func Rename(from, to string) error {
	if err := CheckPath(to); err != nil {
		return err
	}
	if err := unix.Rename(from, to); err != nil {
		return pathError("rename", from, err)
	}
	return nil
}

// Symlink makes a symlink at path.
func Symlink(path, target string) error {
	if err := unix.Symlink(target, path); err != nil {
		return pathError("symlink", path, err)
	}
	return nil
}

// Chmod sets the mode. In a tree symlinks are left alone, because they have none.
func Chmod(request *wire.FileRequest) error {
	if request.Mode == nil {
		return wire.Fail(wire.CodeInvalid, "chmod needs a mode")
	}
	mode := *request.Mode
	follow := orElse(request.Follow, true)
	if !follow && isSymlink(request.Path) {
		return wire.FailPath(request.Path, unix.EOPNOTSUPP)
	}
	if err := unix.Chmod(request.Path, mode); err != nil {
		return pathError("chmod", request.Path, err)
	}
	return below(request, func(dir int, name string, kind fs.FileMode) error {
		if kind&fs.ModeSymlink != 0 {
			return nil
		}
		return unix.Fchmodat(dir, name, mode, 0)
	})
}

// Chown sets owner and group; -1 leaves one as it is.
func Chown(request *wire.FileRequest) error {
	uid, gid := orElse(request.UID, -1), orElse(request.GID, -1)
	flags := 0
	if !orElse(request.Follow, true) {
		flags = unix.AT_SYMLINK_NOFOLLOW
	}
	if err := unix.Fchownat(unix.AT_FDCWD, request.Path, uid, gid, flags); err != nil {
		return pathError("chown", request.Path, err)
	}
	return below(request, func(dir int, name string, _ fs.FileMode) error {
		return unix.Fchownat(dir, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// below applies change to everything under the request's path when it asks for that. It goes
// through directory descriptors, so that nothing can be swapped for a symlink on the way.
func below(request *wire.FileRequest, change func(dir int, name string, kind fs.FileMode) error) error {
	if !request.Recursive {
		return nil
	}
	flags := unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC
	if !orElse(request.Follow, true) {
		flags |= unix.O_NOFOLLOW
	}
	fd, err := unix.Open(request.Path, flags, 0)
	if err == unix.ENOTDIR || err == unix.ELOOP {
		return nil // a single file, already changed
	}
	if err != nil {
		return pathError("open", request.Path, err)
	}
	return changeTree(os.NewFile(uintptr(fd), request.Path), change)
}

func changeTree(dir *os.File, change func(int, string, fs.FileMode) error) error {
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return wire.FailPath(dir.Name(), err)
	}
	for _, entry := range entries {
		path := filepath.Join(dir.Name(), entry.Name())
		err := change(int(dir.Fd()), entry.Name(), entry.Type())
		if err != nil && err != unix.ENOENT {
			return pathError("change", path, err)
		}
		if !entry.IsDir() {
			continue
		}
		fd, err := unix.Openat(int(dir.Fd()), entry.Name(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			continue // gone, or something else by now
		}
		if err := changeTree(os.NewFile(uintptr(fd), path), change); err != nil {
			return err
		}
	}
	return nil
}

func isSymlink(path string) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK
}

func failAt(path string, err error) error {
	if err == nil {
		return nil
	}
	return wire.FailPath(path, err)
}

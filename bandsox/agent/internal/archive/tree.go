package archive

import (
	"os"
	"strings"

	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

// tree is a directory that archive entries are confined to: every name and every symlink on
// its way is resolved by the kernel as if the tree were the root of everything
// (openat2(2), RESOLVE_IN_ROOT), and the last component is never followed.
type tree struct {
	root int

	// The directory that was used last. A descriptor stays inside the tree whatever happens
	// to its name, so it can only be out of date; forget is called when it may be.
	lastName string
	last     int
}

func openTree(path string) (*tree, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return &tree{root: fd, last: -1}, nil
}

func (t *tree) close() {
	t.forget()
	unix.Close(t.root)
}

func (t *tree) forget() {
	if t.last >= 0 {
		unix.Close(t.last)
		t.last = -1
	}
}

// cleanName splits an entry's name. Absolute names are taken as relative, as every tar does;
// a name that goes up is refused.
func cleanName(name string) ([]string, error) {
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
		case part == ".." || strings.ContainsRune(part, 0):
			return nil, &wire.Failure{Code: wire.CodeInvalid, Message: "an entry's name leads out of the archive", Path: []byte(name)}
		default:
			parts = append(parts, part)
		}
	}
	return parts, nil
}

// parent returns the directory that holds the named file, made when absent, and the file's
// name in it. The descriptor belongs to the tree.
func (t *tree) parent(parts []string) (int, string, error) {
	n := len(parts) - 1
	dir := strings.Join(parts[:n], "/")
	if t.last >= 0 && dir == t.lastName {
		return t.last, parts[n], nil
	}
	fd, err := t.directory(parts[:n])
	if err != nil {
		return -1, "", &os.PathError{Op: "open", Path: dir, Err: err}
	}
	t.forget()
	t.last, t.lastName = fd, dir
	return fd, parts[n], nil
}

// directory opens a directory of the tree and makes it, and those above it, when absent.
func (t *tree) directory(parts []string) (int, error) {
	fd, err := t.open(parts)
	if err != unix.ENOENT || len(parts) == 0 {
		return fd, err
	}
	above, err := t.directory(parts[:len(parts)-1])
	if err != nil {
		return -1, err
	}
	defer unix.Close(above)
	if err := unix.Mkdirat(above, parts[len(parts)-1], 0o755); err != nil {
		return -1, err
	}
	return t.open(parts)
}

// open opens an existing directory of the tree.
func (t *tree) open(parts []string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	name := "./" + strings.Join(parts, "/")
	for range 16 { // EAGAIN: something was renamed while the kernel looked
		fd, err := unix.Openat2(t.root, name, &how)
		if err == unix.ENOSYS {
			return t.walk(parts)
		}
		if err != unix.EAGAIN {
			return fd, err
		}
	}
	return -1, unix.EAGAIN
}

// walk is open for kernels before 5.6. It follows no symlink at all.
func (t *tree) walk(parts []string) (int, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(t.root, ".", flags, 0)
	for _, part := range parts {
		if err != nil {
			break
		}
		above := fd
		fd, err = unix.Openat(above, part, flags, 0)
		unix.Close(above)
	}
	return fd, err
}

// remove takes a name away, with everything below it when that is asked for. A directory is
// otherwise only removed when it is empty.
func remove(dir int, name string, recursive bool) error {
	err := unix.Unlinkat(dir, name, 0)
	if err != unix.EISDIR && err != unix.EPERM {
		return err
	}
	if recursive {
		if err := removeBelow(dir, name); err != nil {
			return err
		}
	}
	return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
}

// removeBelow empties a directory without following a symlink.
func removeBelow(dir int, name string) error {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	names, err := readNames(fd)
	if err != nil {
		return err
	}
	for _, child := range names {
		if err := remove(fd, child, true); err != nil && err != unix.ENOENT {
			return err
		}
	}
	return nil
}

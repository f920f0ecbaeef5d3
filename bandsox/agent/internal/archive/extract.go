package archive

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"math"
	"os"
	"path"
	"strings"
	"time"

	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

// OCI's markers for removed files (OCI image specification, layer.md, "Whiteouts").
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
)

// Options say how an archive is unpacked.
type Options struct {
	Whiteouts bool // it is an image layer
	// KeepOwner gives the files the owners that the archive names; otherwise UID and GID.
	KeepOwner bool
	UID, GID  int

	Context context.Context // ends the unpacking
}

// Extract unpacks a tar stream into the directory root, which is made when absent.
func Extract(root string, in io.Reader, options Options) (*wire.ArchiveResult, error) {
	made, err := makeRoot(root)
	if err != nil {
		return nil, wire.FailPath(root, err)
	}
	t, err := openTree(root)
	if err != nil {
		return nil, wire.FailPath(root, err)
	}
	defer t.close()
	counted := &countingReader{in: in}
	x := &extractor{tree: t, options: options, setRoot: made, tr: tar.NewReader(counted)}
	if options.Whiteouts {
		x.unpacked = map[string]bool{}
	}
	if err := x.run(); err != nil {
		return nil, err
	}
	// Whatever stands behind the archive's end belongs to the stream and its checksum.
	if _, err := io.Copy(io.Discard, counted); err != nil {
		return nil, wire.AsFailure(err)
	}
	return &wire.ArchiveResult{Entries: x.entries, Bytes: counted.n}, nil
}

func makeRoot(root string) (made bool, err error) {
	if _, err := os.Stat(root); err == nil {
		return false, nil
	}
	return true, os.MkdirAll(root, 0o755)
}

type extractor struct {
	tree     *tree
	tr       *tar.Reader
	options  Options
	setRoot  bool // the root is new: the archive's own entry for it counts
	entries  int64
	unpacked map[string]bool // with whiteouts: what this layer has brought
	times    []dirTime
}

// dirTime is a directory's time, set at the end: unpacking into it changes it.
type dirTime struct {
	parts []string
	time  time.Time
}

func (x *extractor) run() error {
	for {
		header, err := x.tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return archiveError(err)
		}
		if header.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := x.entry(header); err != nil {
			return wire.FailPath(header.Name, err)
		}
		x.entries++
	}
	for i := len(x.times) - 1; i >= 0; i-- {
		x.setDirTime(x.times[i])
	}
	return nil
}

// archiveError tells a broken archive from a stream that ended early for another reason.
func archiveError(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrFieldTooLong) {
		return wire.Fail(wire.CodeInvalid, "not a tar archive: %v", err)
	}
	return wire.AsFailure(err)
}

func (x *extractor) entry(h *tar.Header) error {
	parts, err := cleanName(h.Name)
	if err != nil {
		return err
	}
	if len(parts) == 0 {
		return x.rootEntry(h)
	}
	dir, name, err := x.tree.parent(parts)
	if err != nil {
		return err
	}
	if x.options.Whiteouts {
		if strings.HasPrefix(name, whiteoutPrefix) {
			x.tree.forget()
			return x.whiteout(parts, name)
		}
		x.note(parts)
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return x.file(dir, name, h)
	case tar.TypeDir:
		return x.directory(dir, name, parts, h)
	}
	defer x.tree.forget()
	if err := x.special(dir, name, h); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeLink {
		return nil // has the attributes of the file that it is
	}
	return x.finishName(dir, name, h)
}

// rootEntry is the archive's entry for the root itself.
func (x *extractor) rootEntry(h *tar.Header) error {
	if h.Typeflag != tar.TypeDir || !x.setRoot {
		return nil
	}
	return x.attributes(x.tree.root, h)
}

func (x *extractor) file(dir int, name string, h *tar.Header) error {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	var fd int
	err := x.replacing(dir, name, func() (err error) {
		fd, err = unix.Openat(dir, name, flags, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()
	err = x.content(file, h)
	if err == nil {
		err = x.attributes(fd, h)
	}
	if err == nil {
		err = setTime(dir, name, h.ModTime)
	}
	if err != nil {
		_ = unix.Unlinkat(dir, name, 0)
	}
	return err
}

// content writes the file's data. In a file that was packed with holes, blocks of zeros become
// holes again.
func (x *extractor) content(file *os.File, h *tar.Header) error {
	buf := wire.NewBuffer()
	defer buf.Free()
	_, sparse := h.PAXRecords["GNU.sparse.major"]
	sparse = sparse || h.Typeflag == tar.TypeGNUSparse
	var err error
	if sparse {
		err = copySparse(x.options.Context, file, x.tr, h.Size, buf.Space()[:128<<10])
	} else {
		_, err = io.CopyBuffer(onlyWriter{file}, x.tr, buf.Space())
	}
	if err != nil {
		return archiveError(err)
	}
	return nil
}

// directory keeps a directory that is there. A symlink to one is kept as well, as long as this
// is not a layer: unpacking over /usr/lib by way of /lib must not replace /lib.
func (x *extractor) directory(dir int, name string, parts []string, h *tar.Header) error {
	err := unix.Mkdirat(dir, name, 0o700)
	if err == unix.EEXIST {
		if fd, err := x.tree.open(parts); err == nil && !x.options.Whiteouts {
			defer unix.Close(fd)
			return x.finishDirectory(fd, parts, h)
		}
		var st unix.Stat_t
		err = unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			x.tree.forget()
			if dir, name, err = x.tree.parent(parts); err == nil {
				err = x.replacing(dir, name, func() error { return unix.Mkdirat(dir, name, 0o700) })
			}
		}
		if err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return x.finishDirectory(fd, parts, h)
}

func (x *extractor) finishDirectory(fd int, parts []string, h *tar.Header) error {
	x.times = append(x.times, dirTime{parts, h.ModTime})
	return x.attributes(fd, h)
}

// special makes what is neither file nor directory.
func (x *extractor) special(dir int, name string, h *tar.Header) error {
	mode := uint32(h.Mode) & 0o7777
	device := 0
	switch h.Typeflag {
	case tar.TypeLink:
		return x.hardLink(dir, name, h.Linkname)
	case tar.TypeSymlink:
		return x.replacing(dir, name, func() error { return unix.Symlinkat(h.Linkname, dir, name) })
	case tar.TypeFifo:
		mode |= unix.S_IFIFO
	case tar.TypeChar, tar.TypeBlock:
		mode |= unix.S_IFCHR
		if h.Typeflag == tar.TypeBlock {
			mode = mode&^unix.S_IFMT | unix.S_IFBLK
		}
		device = int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)))
	default:
		return wire.Fail(wire.CodeUnsupported, "an entry of type %q", h.Typeflag)
	}
	return x.replacing(dir, name, func() error { return unix.Mknodat(dir, name, mode, device) })
}

// hardLink links to a file of the tree, itself, not what it points to.
func (x *extractor) hardLink(dir int, name, target string) error {
	parts, err := cleanName(target)
	if err != nil {
		return err
	}
	if len(parts) == 0 {
		return unix.EPERM
	}
	from, err := x.tree.open(parts[:len(parts)-1])
	if err != nil {
		return err
	}
	defer unix.Close(from)
	targetName := parts[len(parts)-1]
	err = unix.Linkat(from, targetName, dir, name, 0)
	if err != unix.EEXIST || sameFile(from, targetName, dir, name) {
		return ignoring(err, unix.EEXIST)
	}
	if err := remove(dir, name, x.options.Whiteouts); err != nil {
		return err
	}
	return unix.Linkat(from, targetName, dir, name, 0)
}

func sameFile(dirA int, a string, dirB int, b string) bool {
	var x, y unix.Stat_t
	return unix.Fstatat(dirA, a, &x, unix.AT_SYMLINK_NOFOLLOW) == nil &&
		unix.Fstatat(dirB, b, &y, unix.AT_SYMLINK_NOFOLLOW) == nil &&
		x.Dev == y.Dev && x.Ino == y.Ino
}

// replacing makes a name, and takes away first what is there already.
func (x *extractor) replacing(dir int, name string, create func() error) error {
	err := create()
	if err != unix.EEXIST {
		return err
	}
	if err := remove(dir, name, x.options.Whiteouts); err != nil {
		return err
	}
	return create()
}

// whiteout applies a layer's marker: one name, or everything in a directory that came from
// layers below.
func (x *extractor) whiteout(parts []string, marker string) error {
	dir, _, err := x.tree.parent(parts)
	if err != nil {
		return err
	}
	if marker != opaqueMarker {
		name := strings.TrimPrefix(marker, whiteoutPrefix)
		if name == "" || name == "." || name == ".." {
			return wire.Fail(wire.CodeInvalid, "a whiteout named %q", marker)
		}
		return ignoring(remove(dir, name, true), unix.ENOENT)
	}
	return x.clearBelow(dir, strings.Join(parts[:len(parts)-1], "/"))
}

// clearBelow removes what a directory had before this layer, which may already have brought
// something into it.
func (x *extractor) clearBelow(dir int, below string) error {
	names, err := readNames(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		full := path.Join(below, name)
		if !x.unpacked[full] {
			if err := remove(dir, name, true); err != nil {
				return err
			}
			continue
		}
		fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			continue // not a directory
		}
		err = x.clearBelow(fd, full)
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	return nil
}

// note remembers a path, and those above it, as brought by this layer.
func (x *extractor) note(parts []string) {
	for n := len(parts); n > 0; n-- {
		name := strings.Join(parts[:n], "/")
		if x.unpacked[name] {
			return
		}
		x.unpacked[name] = true
	}
}

// attributes gives an open file its owner, attributes and mode, in this order: a change of
// owner takes capabilities and set-id bits away.
func (x *extractor) attributes(fd int, h *tar.Header) error {
	uid, gid, err := x.owner(h)
	if err != nil {
		return err
	}
	path := descriptorPath(fd)
	if err := unix.Chown(path, uid, gid); err != nil {
		return err
	}
	if err := setAttributes(fd, h.PAXRecords); err != nil {
		return err
	}
	return unix.Chmod(path, uint32(h.Mode)&0o7777)
}

// finishName gives a file that cannot be opened its owner, mode and time.
func (x *extractor) finishName(dir int, name string, h *tar.Header) error {
	uid, gid, err := x.owner(h)
	if err != nil {
		return err
	}
	if err := unix.Fchownat(dir, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := unix.Fchmodat(dir, name, uint32(h.Mode)&0o7777, 0); err != nil {
			return err
		}
	}
	return setTime(dir, name, h.ModTime)
}

func (x *extractor) owner(h *tar.Header) (int, int, error) {
	if !x.options.KeepOwner {
		return x.options.UID, x.options.GID, nil
	}
	if h.Uid < 0 || h.Gid < 0 || h.Uid >= math.MaxUint32 || h.Gid >= math.MaxUint32 {
		return 0, 0, wire.Fail(wire.CodeInvalid, "owner %d:%d", h.Uid, h.Gid)
	}
	return h.Uid, h.Gid, nil
}

func (x *extractor) setDirTime(d dirTime) {
	if dir, name, err := x.tree.parent(d.parts); err == nil {
		_ = setTime(dir, name, d.time)
	}
}

func setTime(dir int, name string, t time.Time) error {
	ts := []unix.Timespec{unix.NsecToTimespec(t.UnixNano()), unix.NsecToTimespec(t.UnixNano())}
	return unix.UtimesNanoAt(dir, name, ts, unix.AT_SYMLINK_NOFOLLOW)
}

func ignoring(err, expected error) error {
	if err == expected {
		return nil
	}
	return err
}

// onlyWriter hides what else a file can do, so that the copy uses our buffer.
type onlyWriter struct{ io.Writer }

type countingReader struct {
	in io.Reader
	n  int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	c.n += int64(n)
	return n, err
}

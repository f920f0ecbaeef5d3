// Package archive turns trees of files into tar streams and back.
//
// Streams are POSIX pax with the extensions that everybody reads: SCHILY.xattr for extended
// attributes and GNU.sparse 1.0 for files with holes. Unpacking is the one place where names come
// from a stream that nobody vouches for; see tree for how it is confined.
package archive

import (
	"archive/tar"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

// Create writes the tree at root as a tar stream. The top entry is called base; with an empty
// base there is none. Patterns match against paths below root, and what they match is left out
// with everything below it.
func Create(root, base string, exclude []string, out io.Writer) (*wire.ArchiveResult, error) {
	for _, pattern := range exclude {
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, wire.Fail(wire.CodeInvalid, "bad pattern %q", pattern)
		}
	}
	p := newPacker(out)
	p.skip = func(below string) bool {
		for _, pattern := range exclude {
			if matched, _ := path.Match(strings.Trim(pattern, "/"), below); matched {
				return true
			}
		}
		return false
	}
	// The path itself may be a symlink to what is meant; below it none is followed.
	fd, err := unix.Open(root, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, wire.FailPath(root, &os.PathError{Op: "open", Path: root, Err: err})
	}
	defer unix.Close(fd)
	if err := p.entry(fd, "", strings.Trim(base, "/"), ""); err != nil {
		return nil, wire.FailPath(root, err)
	}
	return p.finish()
}

// BaseName is the name of a tree's top entry when the host gives none.
func BaseName(root string) string {
	if base := filepath.Base(filepath.Clean(root)); base != "/" {
		return base
	}
	return "."
}

// packer walks a tree and writes its entries.
type packer struct {
	tw    *tar.Writer
	out   *counter
	links map[inode]string // first name of every file with several

	skip   func(below string) bool                                           // leave this path out
	adapt  func(p *packer, e *entry, below string) (handled bool, err error) // see Layer
	result wire.ArchiveResult
}

type inode struct{ dev, ino uint64 }

// entry is a file to be packed.
type entry struct {
	fd   int // O_PATH
	st   unix.Stat_t
	name string // in the archive
}

func newPacker(out io.Writer) *packer {
	c := &counter{out: out}
	return &packer{tw: tar.NewWriter(c), out: c, links: map[inode]string{}}
}

func (p *packer) finish() (*wire.ArchiveResult, error) {
	if err := p.tw.Close(); err != nil {
		return nil, err
	}
	p.result.Bytes = p.out.n
	return &p.result, nil
}

// entry packs the file `file` of the directory dir, or dir itself when file is empty. below is
// its path below the root of the walk.
func (p *packer) entry(dir int, file, name, below string) error {
	flags := unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(dir, file, flags, 0)
	if file == "" {
		fd, err = unix.FcntlInt(uintptr(dir), unix.F_DUPFD_CLOEXEC, 0)
	}
	if err == unix.ENOENT {
		return nil // gone meanwhile
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: below, Err: err}
	}
	defer unix.Close(fd)
	e := &entry{fd: fd, name: name}
	if err := unix.Fstat(fd, &e.st); err != nil {
		return err
	}
	if p.adapt != nil {
		if handled, err := p.adapt(p, e, below); handled || err != nil {
			return err
		}
	}
	isDir := e.st.Mode&unix.S_IFMT == unix.S_IFDIR
	if e.st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		return nil // tar has no sockets
	}
	if name != "" {
		if err := p.write(e); err != nil {
			return err
		}
	}
	if isDir {
		return p.directory(e, below)
	}
	return nil
}

// directory packs what a directory holds, in the order of names, so that the same tree gives
// the same archive.
func (p *packer) directory(e *entry, below string) error {
	names, err := readNames(e.fd)
	if err != nil {
		return &os.PathError{Op: "list", Path: below, Err: err}
	}
	sort.Strings(names)
	for _, name := range names {
		child := path.Join(below, name)
		if p.skip != nil && p.skip(child) {
			continue
		}
		if err := p.entry(e.fd, name, join(e.name, name), child); err != nil {
			return err
		}
	}
	return nil
}

// write packs one file without what is below it.
func (p *packer) write(e *entry) error {
	header, err := e.header()
	if err != nil {
		return err
	}
	regular := header.Typeflag == tar.TypeReg
	if header.Typeflag != tar.TypeDir && e.st.Nlink > 1 {
		id := inode{e.st.Dev, e.st.Ino}
		if first, seen := p.links[id]; seen {
			header.Typeflag, header.Linkname, header.Size, header.PAXRecords = tar.TypeLink, first, 0, nil
			regular = false
		} else {
			p.links[id] = e.name
		}
	}
	p.result.Entries++
	if !regular {
		return p.tw.WriteHeader(header)
	}
	return p.content(e, header)
}

// content packs a regular file with what it holds.
func (p *packer) content(e *entry, header *tar.Header) error {
	fd, err := unix.Open(descriptorPath(e.fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: e.name, Err: err}
	}
	file := os.NewFile(uintptr(fd), e.name)
	defer file.Close()
	if e.st.Blocks*512 < e.st.Size {
		if spans := dataSpans(fd, e.st.Size); len(spans) != 1 || spans[0].length != e.st.Size {
			return p.sparse(file, header, spans)
		}
	}
	if err := p.tw.WriteHeader(header); err != nil {
		return err
	}
	return copyExactly(p.tw, file, 0, header.Size)
}

// header describes the entry. Names of users and groups are left out: they are the guest's.
func (e *entry) header() (*tar.Header, error) {
	h := &tar.Header{
		Name: e.name, Mode: int64(e.st.Mode & 0o7777), Uid: int(e.st.Uid), Gid: int(e.st.Gid),
		ModTime: time.Unix(e.st.Mtim.Unix()), Format: tar.FormatPAX,
	}
	switch e.st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, e.st.Size
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, e.name+"/"
	case unix.S_IFLNK:
		var target [unix.PathMax]byte
		n, err := unix.Readlinkat(e.fd, "", target[:])
		if err != nil {
			return nil, &os.PathError{Op: "readlink", Path: e.name, Err: err}
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, string(target[:n])
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR:
		h.Typeflag = tar.TypeChar
	case unix.S_IFBLK:
		h.Typeflag = tar.TypeBlock
	default:
		return nil, fmt.Errorf("%s: unknown kind of file", e.name)
	}
	if h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
		h.Devmajor, h.Devminor = int64(unix.Major(e.st.Rdev)), int64(unix.Minor(e.st.Rdev))
	}
	if h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeDir {
		h.PAXRecords = attributeRecords(e.fd)
	}
	return h, nil
}

// copyExactly copies length bytes from the offset. A file that has become shorter is filled
// up with zeros, since its size has already been written.
func copyExactly(w io.Writer, file *os.File, offset, length int64) error {
	n, err := io.Copy(w, io.NewSectionReader(file, offset, length))
	if err != nil {
		return err
	}
	_, err = io.CopyN(w, zeros{}, length-n)
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// counter counts the bytes of the stream.
type counter struct {
	out io.Writer
	n   int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.out.Write(p)
	c.n += int64(n)
	return n, err
}

// ReadFrom lets the bytes go straight into the buffers of what is below.
func (c *counter) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(c.out, r)
	c.n += n
	return n, err
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// descriptorPath reaches a file that is only held by an O_PATH descriptor.
func descriptorPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// readNames lists the directory behind an O_PATH descriptor.
func readNames(fd int) ([]string, error) {
	opened, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	dir := os.NewFile(uintptr(opened), "")
	defer dir.Close()
	return dir.Readdirnames(-1)
}

package compare

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"bandsox.dev/agent/internal/files"
	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

const chunk = 256 << 10

// Devices compares the states that two devices hold of a machine with this image, and tells emit of each difference, those of a
// directory before those below it.
func Devices(ctx context.Context, image *os.File, before, after string, emit func(wire.Difference) error) error {
	work, err := os.MkdirTemp("/run", "compare-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	c := comparison{ctx: ctx, emit: emit}
	for _, side := range []struct {
		state  *state
		device string
		name   string
	}{{&c.before, before, "before"}, {&c.after, after, "after"}} {
		place := filepath.Join(work, side.name)
		defer unmountState(place)
		if *side.state, err = mountState(image, side.device, place); err != nil {
			return err
		}
	}
	return c.directory("/")
}

type comparison struct {
	ctx           context.Context
	before, after state
	emit          func(wire.Difference) error
	buffers       [2][chunk]byte
}

// directory compares what both states have in a directory of both.
func (c *comparison) directory(below string) error {
	names, err := c.names(below)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := c.entry(path.Join(below, name)); err != nil {
			return err
		}
	}
	return nil
}

// names lists what may differ in a directory: what one of the layers has there. If one of them hides the image's directory and the
// other does not, anything may.
func (c *comparison) names(below string) ([]string, error) {
	places := []string{c.before.upper, c.after.upper}
	if opaque(c.before.upper+below) != opaque(c.after.upper+below) {
		places = []string{c.before.merged, c.after.merged}
	}
	var names []string
	for _, place := range places {
		found, err := list(place + below)
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
			return nil, wire.FailPath(below, err)
		}
		names = append(names, found...)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func (c *comparison) entry(below string) error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	before, err := lstat(c.before.merged + below)
	if err != nil {
		return wire.FailPath(below, err)
	}
	after, err := lstat(c.after.merged + below)
	if err != nil {
		return wire.FailPath(below, err)
	}
	switch {
	case before == nil && after == nil:
		return nil
	case before == nil:
		return c.tree(c.after, below, "created", after)
	case after == nil:
		return c.tree(c.before, below, "removed", before)
	case kind(before) != kind(after):
		return c.replaced(below, before, after)
	case kind(before) == unix.S_IFDIR:
		if !sameAttributes(before, after) {
			if err := c.report("modified", below, after); err != nil {
				return err
			}
		}
		return c.directory(below)
	}
	same, err := c.same(below, before, after)
	if err != nil {
		return wire.FailPath(below, err)
	}
	if same {
		return nil
	}
	return c.report("modified", below, after)
}

// replaced reports a file of another type; what was or is below a directory was removed or created.
func (c *comparison) replaced(below string, before, after *unix.Stat_t) error {
	if err := c.report("modified", below, after); err != nil {
		return err
	}
	if kind(before) == unix.S_IFDIR {
		return c.contents(c.before, below, "removed")
	}
	if kind(after) == unix.S_IFDIR {
		return c.contents(c.after, below, "created")
	}
	return nil
}

// tree reports a file that only one state has, with everything below it.
func (c *comparison) tree(s state, below, change string, st *unix.Stat_t) error {
	if err := c.report(change, below, st); err != nil {
		return err
	}
	if kind(st) != unix.S_IFDIR {
		return nil
	}
	return c.contents(s, below, change)
}

func (c *comparison) contents(s state, below, change string) error {
	names, err := list(s.merged + below)
	if err != nil {
		return wire.FailPath(below, err)
	}
	slices.Sort(names)
	for _, name := range names {
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		child := path.Join(below, name)
		st, err := lstat(s.merged + child)
		if err != nil {
			return wire.FailPath(child, err)
		}
		if st == nil {
			continue // a damaged file system lists what is not there
		}
		if err := c.tree(s, child, change, st); err != nil {
			return err
		}
	}
	return nil
}

func (c *comparison) report(change, below string, st *unix.Stat_t) error {
	return c.emit(wire.Difference{Change: change, Path: []byte(below), Type: files.TypeName(kind(st)), Size: st.Size})
}

// same tells whether two files of one type, not directories, are the same.
func (c *comparison) same(below string, before, after *unix.Stat_t) (bool, error) {
	if !sameAttributes(before, after) || before.Rdev != after.Rdev {
		return false, nil
	}
	switch kind(before) {
	case unix.S_IFREG:
		if before.Size != after.Size {
			return false, nil
		}
		return c.sameContent(below)
	case unix.S_IFLNK:
		one, err := os.Readlink(c.before.merged + below)
		if err != nil {
			return false, err
		}
		other, err := os.Readlink(c.after.merged + below)
		return one == other, err
	}
	return true, nil
}

func (c *comparison) sameContent(below string) (bool, error) {
	one, err := open(c.before.merged + below)
	if err != nil {
		return false, err
	}
	defer one.Close()
	other, err := open(c.after.merged + below)
	if err != nil {
		return false, err
	}
	defer other.Close()
	for {
		if c.ctx.Err() != nil {
			return false, context.Cause(c.ctx)
		}
		n, err := io.ReadFull(one, c.buffers[0][:])
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return false, err
		}
		m, err := io.ReadFull(other, c.buffers[1][:])
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return false, err
		}
		if !bytes.Equal(c.buffers[0][:n], c.buffers[1][:m]) {
			return false, nil
		}
		if m < chunk {
			return true, nil
		}
	}
}

func open(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
}

func list(path string) ([]string, error) {
	dir, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.Readdirnames(-1)
}

// lstat is nil for what is not there.
func lstat(path string) (*unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err == unix.ENOENT {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return &st, nil
}

// opaque tells whether a layer's directory hides what the image has there (Linux,
// Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories").
func opaque(path string) bool {
	var value [8]byte
	n, err := unix.Lgetxattr(path, "trusted.overlay.opaque", value[:])
	return err == nil && strings.HasPrefix(string(value[:n]), "y")
}

func kind(st *unix.Stat_t) uint32 { return uint32(st.Mode) & unix.S_IFMT }

func sameAttributes(a, b *unix.Stat_t) bool {
	return a.Mode == b.Mode && a.Uid == b.Uid && a.Gid == b.Gid
}

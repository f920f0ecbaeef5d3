package archive

import (
	"archive/tar"
	"io"
	"path"
	"strings"

	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

// Layer writes the upper directory of an overlayfs as an image layer. How overlayfs marks what
// is gone (Linux, Documentation/filesystems/overlayfs.rst) becomes how layers mark it: a
// character device 0:0 is a removed name, a directory with the attribute "opaque" hides what is
// below it. Paths that skip names are not the image's: mount points and the agent's own files.
func Layer(upper int, skip func(below string) bool, out io.Writer) (*wire.ArchiveResult, error) {
	p := newPacker(out)
	p.skip = skip
	p.adapt = adaptOverlay
	if err := p.entry(upper, "", "", ""); err != nil {
		return nil, wire.AsFailure(err)
	}
	return p.finish()
}

// adaptOverlay handles what means something else in an upper directory.
func adaptOverlay(p *packer, e *entry, below string) (bool, error) {
	switch e.st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		if e.st.Rdev == 0 {
			dir, name := path.Split(below)
			return true, p.marker(dir + whiteoutPrefix + name)
		}
	case unix.S_IFDIR:
		if value, ok := attribute(descriptorPath(e.fd), overlayPrefix+"opaque"); ok && strings.HasPrefix(value, "y") && below != "" {
			if err := p.write(e); err != nil {
				return true, err
			}
			if err := p.marker(below + "/" + opaqueMarker); err != nil {
				return true, err
			}
			return true, p.directory(e, below)
		}
	}
	return false, nil
}

// marker writes an empty file that only its name gives a meaning.
func (p *packer) marker(name string) error {
	p.result.Entries++
	return p.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Format: tar.FormatPAX})
}

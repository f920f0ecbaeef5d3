package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"sort"
	"strconv"

	"golang.org/x/sys/unix"
)

const blockSize = 512

// span is a part of a file that holds data; between spans there are holes.
type span struct{ offset, length int64 }

// dataSpans asks the file system where the data is. One that cannot tell says that it is
// everywhere.
func dataSpans(fd int, size int64) []span {
	var spans []span
	for at := int64(0); at < size; {
		start, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break // only a hole is left
		}
		if err != nil {
			return []span{{0, size}}
		}
		end, err := unix.Seek(fd, start, unix.SEEK_HOLE)
		if err != nil {
			return []span{{0, size}}
		}
		end = min(end, size)
		spans = append(spans, span{start, end - start})
		at = end
	}
	return spans
}

// sparse packs a file with holes in the GNU.sparse 1.0 format ("PAX Format, Version 1.0" in the
// manual of GNU tar): pax records give the real name and size, and the data begins with a
// map of the spans. archive/tar reads this format and does not write it.
func (p *packer) sparse(file *os.File, header *tar.Header, spans []span) error {
	sparseMap := sparseMap(spans, header.Size)
	stored := int64(len(sparseMap))
	for _, s := range spans {
		stored += s.length
	}
	records := map[string]string{
		"GNU.sparse.major": "1", "GNU.sparse.minor": "0",
		"GNU.sparse.name": header.Name, "GNU.sparse.realsize": strconv.FormatInt(header.Size, 10),
		"mtime": fmt.Sprintf("%d.%09d", header.ModTime.Unix(), header.ModTime.Nanosecond()),
		"size":  strconv.FormatInt(stored, 10),
		"uid":   strconv.Itoa(header.Uid), "gid": strconv.Itoa(header.Gid),
	}
	for key, value := range header.PAXRecords {
		records[key] = value
	}
	if err := p.rawPax(records); err != nil {
		return err
	}
	plain := *header
	plain.Name, plain.PAXRecords = "GNUSparseFile.0/"+shorten(path.Base(header.Name)), nil
	plain.Size = stored
	if err := p.rawHeader(plain); err != nil {
		return err
	}
	if _, err := p.out.Write(sparseMap); err != nil {
		return err
	}
	for _, s := range spans {
		if err := copyExactly(p.out, file, s.offset, s.length); err != nil {
			return err
		}
	}
	_, err := p.out.Write(make([]byte, padding(stored)))
	return err
}

// sparseMap lists the spans; the last one marks the end of the file when it ends in a hole.
func sparseMap(spans []span, size int64) []byte {
	if n := len(spans); n == 0 || spans[n-1].offset+spans[n-1].length < size {
		spans = append(spans[:n:n], span{size, 0})
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%d\n", len(spans))
	for _, s := range spans {
		fmt.Fprintf(&b, "%d\n%d\n", s.offset, s.length)
	}
	b.Write(make([]byte, padding(int64(b.Len()))))
	return b.Bytes()
}

// rawPax writes an extended header with the records.
func (p *packer) rawPax(records map[string]string) error {
	keys := make([]string, 0, len(records))
	for key := range records {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	var body bytes.Buffer
	for _, key := range keys {
		body.WriteString(paxRecord(key, records[key]))
	}
	size := int64(body.Len())
	body.Write(make([]byte, padding(size)))
	header := tar.Header{Typeflag: tar.TypeXHeader, Name: "PaxHeaders.0/sparse", Mode: 0o644, Size: size}
	if err := p.rawHeader(header); err != nil {
		return err
	}
	_, err := p.out.Write(body.Bytes())
	return err
}

// paxRecord is "length key=value\n", where the length counts itself.
func paxRecord(key, value string) string {
	rest := len(key) + len(value) + 3
	size := rest + len(strconv.Itoa(rest))
	if rest+len(strconv.Itoa(size)) != size {
		size = rest + len(strconv.Itoa(size))
	}
	return fmt.Sprintf("%d %s=%s\n", size, key, value)
}

// rawHeader writes a header block past the tar writer, which neither takes this type nor a size
// that it does not see the data of.
func (p *packer) rawHeader(h tar.Header) error {
	if err := p.tw.Flush(); err != nil {
		return err
	}
	var b bytes.Buffer
	kind := h.Typeflag
	h.Typeflag, h.Format = tar.TypeReg, tar.FormatUSTAR
	const most = 1<<33 - 1 // of a ustar header's fields; the pax records have the real values
	h.Size = min(h.Size, most)
	h.Uid, h.Gid = min(h.Uid, 1<<21-1), min(h.Gid, 1<<21-1)
	h.ModTime = h.ModTime.Truncate(1e9)
	if err := tar.NewWriter(&b).WriteHeader(&h); err != nil {
		return err
	}
	block := b.Bytes()
	block[typeAt] = kind
	seal(block)
	_, err := p.out.Write(block)
	return err
}

// Places in a ustar header (POSIX.1-2017, pax, "ustar Interchange Format").
const (
	checksumAt = 148
	typeAt     = 156
)

// seal computes the header's checksum, in which its own field counts as spaces.
func seal(block []byte) {
	copy(block[checksumAt:], "        ")
	sum := 0
	for _, c := range block {
		sum += int(c)
	}
	copy(block[checksumAt:], fmt.Sprintf("%06o\x00 ", sum))
}

func padding(size int64) int64 { return -size & (blockSize - 1) }

func shorten(name string) string {
	clean := []byte(name)
	for i, c := range clean {
		if c >= 0x80 {
			clean[i] = '_'
		}
	}
	return string(clean[:min(len(clean), 80)])
}

// copySparse writes the data and leaves out blocks that hold only zeros. A few bytes of archive
// can stand for any length of them, so it does not rely on the stream to end.
func copySparse(ctx context.Context, file *os.File, in io.Reader, size int64, buf []byte) error {
	var offset int64
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := io.ReadFull(in, buf)
		for at := 0; at < n; at += holeSize {
			block := buf[at:min(at+holeSize, n)]
			if allZero(block) {
				continue
			}
			if _, err := file.WriteAt(block, offset+int64(at)); err != nil {
				return err
			}
		}
		offset += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if offset != size {
		return io.ErrUnexpectedEOF
	}
	return file.Truncate(size)
}

const holeSize = 4096

func allZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

package main

import (
	"archive/tar"
	"bytes"

	"bandsox.dev/agent/internal/wire"
)

// entry is one entry of a tar archive, with as many bytes of content.
func entry(name string, kind byte, link string, size int) []byte {
	var buffer bytes.Buffer
	writer := tar.NewWriter(&buffer)
	header := &tar.Header{Name: name, Typeflag: kind, Linkname: link, Mode: 0o7777, Size: int64(size), Format: tar.FormatPAX}
	if err := writer.WriteHeader(header); err != nil {
		panic(err)
	}
	_, _ = writer.Write(bytes.Repeat([]byte("x"), size))
	_ = writer.Flush()
	return buffer.Bytes()
}

// escapes are entries that try to get out of the directory that they are unpacked in.
func escapes(base string) [][]byte {
	return [][]byte{
		entry(base+"/", tar.TypeDir, "", 0),
		entry(base+"/out", tar.TypeSymlink, "../..", 0),
		entry(base+"/absolute", tar.TypeSymlink, "/", 0),
		entry(base+"/device", tar.TypeBlock, "", 0),
		entry(base+"/hard", tar.TypeLink, "/etc/passwd", 0),
		entry(base+"/out/escaped", tar.TypeReg, "", 4),
		entry(base+"/../escaped", tar.TypeReg, "", 4),
		entry("../escaped", tar.TypeReg, "", 4),
		entry("/escaped", tar.TypeReg, "", 4),
	}
}

// base is the name that the archive's top entry was asked to have.
func base(c *call) string {
	var request wire.FileRequest
	if wire.Decode(c.request, &request) != nil || request.Base == nil {
		return "root"
	}
	return *request.Base
}

package archive

import (
	"bytes"
	"strings"

	"golang.org/x/sys/unix"
)

// xattrRecord is how pax headers carry extended attributes, in GNU tar, libarchive and OCI
// layers alike.
const xattrRecord = "SCHILY.xattr."

// overlayPrefix marks what overlayfs keeps for itself.
const overlayPrefix = "trusted.overlay."

// maxAttribute is the kernel's bound for one attribute and for the list of names.
const maxAttribute = 64 << 10

// attributeRecords reads the extended attributes of a file as pax records. A file system
// without them has none.
func attributeRecords(fd int) map[string]string {
	path := descriptorPath(fd)
	size, err := unix.Listxattr(path, nil)
	if err != nil || size == 0 {
		return nil
	}
	names := make([]byte, maxAttribute)
	if size, err = unix.Listxattr(path, names); err != nil {
		return nil
	}
	records := map[string]string{}
	for _, name := range bytes.Split(bytes.TrimSuffix(names[:size], []byte{0}), []byte{0}) {
		key := string(name)
		if strings.HasPrefix(key, overlayPrefix) || strings.Contains(key, "=") {
			continue
		}
		if value, ok := attribute(path, key); ok {
			records[xattrRecord+key] = value
		}
	}
	if len(records) == 0 {
		return nil
	}
	return records
}

func attribute(path, name string) (string, bool) {
	value := make([]byte, 256)
	n, err := unix.Getxattr(path, name, value)
	if err == unix.ERANGE {
		value = make([]byte, maxAttribute)
		n, err = unix.Getxattr(path, name, value)
	}
	if err != nil {
		return "", false
	}
	return string(value[:n]), true
}

// setAttributes gives the file behind an O_PATH descriptor the attributes of its records.
// Attributes that the file system does not have are left out; only overlayfs's own, which
// would change what the tree means, never get through.
func setAttributes(fd int, records map[string]string) error {
	for key, value := range records {
		name, ok := strings.CutPrefix(key, xattrRecord)
		if !ok || strings.HasPrefix(name, overlayPrefix) {
			continue
		}
		err := unix.Setxattr(descriptorPath(fd), name, []byte(value), 0)
		if err != nil && err != unix.EOPNOTSUPP && err != unix.EPERM {
			return err
		}
	}
	return nil
}

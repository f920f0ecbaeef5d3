package boot

import (
	"bytes"
	"encoding/binary"
	"os"

	"golang.org/x/sys/unix"
)

// A signed module ends with its signature, what describes that, and this mark (Linux, include/linux/module_signature.h).
const (
	signatureMark       = "~Module signature appended~\n"
	signatureHeaderSize = 12
)

// loadModule loads a module of the initramfs. One that is there already, perhaps built in, counts as loaded.
//
// Its signature is left out. All of the initramfs comes from the host, as the kernel does, so that a signature proves nothing, and to
// verify it takes a third of the time of loading. A kernel that was told to insist on signatures gets it.
func loadModule(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	err = initModule(unsigned(content))
	if err == unix.EPERM || err == unix.EKEYREJECTED {
		err = initModule(content)
	}
	return err
}

func initModule(content []byte) error {
	if err := unix.InitModule(content, ""); err != unix.EEXIST {
		return err
	}
	return nil
}

// unsigned returns a module without its signature.
func unsigned(module []byte) []byte {
	body, signed := bytes.CutSuffix(module, []byte(signatureMark))
	if !signed || len(body) < signatureHeaderSize {
		return module
	}
	body, header := body[:len(body)-signatureHeaderSize], body[len(body)-signatureHeaderSize:]
	size := int64(binary.BigEndian.Uint32(header[8:]))
	if size > int64(len(body)) {
		return module
	}
	return body[:int64(len(body))-size]
}

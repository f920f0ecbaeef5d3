package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"

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

// The bus of virtio devices (Linux, Documentation/ABI/testing/sysfs-bus-*): whether a driver that is loaded takes the devices there are,
// and which device is to get its driver now.
const (
	virtioDevices   = "/sys/bus/virtio/devices"
	virtioAutoprobe = "/sys/bus/virtio/drivers_autoprobe"
	virtioProbe     = "/sys/bus/virtio/drivers_probe"

	blockDevice = "0x0002" // the kind of a virtio device that is a disk (virtio 1.2, section 5)
)

// loadAside loads a virtio driver without giving it the devices that are there.
func loadAside(path string) error {
	if err := os.WriteFile(virtioAutoprobe, []byte("0"), 0); err != nil {
		return err
	}
	return errors.Join(loadModule(path), os.WriteFile(virtioAutoprobe, []byte("1"), 0))
}

// probeDisks gives the disks their driver.
func probeDisks() error {
	devices, err := os.ReadDir(virtioDevices)
	if err != nil {
		return err
	}
	for _, device := range devices {
		kind, err := os.ReadFile(filepath.Join(virtioDevices, device.Name(), "device"))
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(kind)) != blockDevice {
			continue
		}
		if err := os.WriteFile(virtioProbe, []byte(device.Name()), 0); err != nil {
			return err
		}
	}
	return nil
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

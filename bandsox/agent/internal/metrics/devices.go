package metrics

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"bandsox.dev/agent/internal/wire"
)

// sectorSize is the unit of /sys/block/*/stat, whatever the device's own is (Linux,
// Documentation/block/stat.rst).
const sectorSize = 512

// transferred is how much the disks have read and written.
func transferred(sys string) (read, written uint64) {
	for _, disk := range hardware(filepath.Join(sys, "block")) {
		content, _ := os.ReadFile(filepath.Join(disk, "stat"))
		fields := strings.Fields(string(content)) // reads, merged, sectors, ms, writes, merged, sectors, …
		if len(fields) < 7 {
			continue
		}
		read += count(fields[2]) * sectorSize
		written += count(fields[6]) * sectorSize
	}
	return read, written
}

// traffic is how much the network devices have received and sent.
func traffic(sys string) (m wire.NetworkMetrics) {
	for _, device := range hardware(filepath.Join(sys, "class/net")) {
		m.Received += figure(filepath.Join(device, "statistics/rx_bytes"))
		m.Sent += figure(filepath.Join(device, "statistics/tx_bytes"))
	}
	return m
}

// hardware lists the devices of a class that the machine has itself. What its kernel makes of
// them (loop devices, bridges, tunnels, and lo) counts the same bytes once more.
func hardware(class string) (devices []string) {
	entries, _ := os.ReadDir(class)
	for _, entry := range entries {
		path := filepath.Join(class, entry.Name())
		if _, err := os.Lstat(filepath.Join(path, "device")); err == nil {
			devices = append(devices, path)
		}
	}
	return devices
}

func figure(path string) uint64 {
	content, _ := os.ReadFile(path)
	return count(strings.TrimSpace(string(content)))
}

func count(text string) uint64 {
	n, _ := strconv.ParseUint(text, 10, 64)
	return n
}

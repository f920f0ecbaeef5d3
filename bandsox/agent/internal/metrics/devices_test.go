package metrics

import (
	"os"
	"path/filepath"
	"testing"

	"bandsox.dev/agent/internal/wire"
)

func TestDevicesOfTheMachineAreCountedAndThoseThatItsKernelMakesOfThemAreNot(t *testing.T) {
	sys := t.TempDir()
	for path, content := range map[string]string{
		"block/vda/device/x":                     "",
		"block/vda/stat":                         "     10        0      100        5       20        0     2000        7        0       12       12\n",
		"block/vdb/device/x":                     "",
		"block/vdb/stat":                         "1 0 1 0 1 0 1\n",
		"block/vdc/device/x":                     "",
		"block/vdc/stat":                         "no figures\n",
		"block/loop0/stat":                       "9 9 9 9 9 9 9 9 9 9 9\n",
		"class/net/eth0/device/x":                "",
		"class/net/eth0/statistics/rx_bytes":     "18446744073709551\n",
		"class/net/eth0/statistics/tx_bytes":     "17\n",
		"class/net/lo/statistics/rx_bytes":       "1000\n",
		"class/net/docker0/statistics/rx_bytes":  "1000\n",
		"class/net/bonding_masters":              "",
		"class/net/eth1/device/x":                "",
		"class/net/eth1/statistics/nothing_here": "5\n",
	} {
		path = filepath.Join(sys, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if read, written := transferred(sys); read != 101*512 || written != 2001*512 {
		t.Error(read, written)
	}
	if m := traffic(sys); m != (wire.NetworkMetrics{Received: 18446744073709551, Sent: 17}) {
		t.Error(m)
	}
}

func TestWithoutSysfsThereIsNothingToCount(t *testing.T) {
	sys := filepath.Join(t.TempDir(), "not-mounted")
	if read, written := transferred(sys); read != 0 || written != 0 {
		t.Error(read, written)
	}
	if m := traffic(sys); m != (wire.NetworkMetrics{}) {
		t.Error(m)
	}
}

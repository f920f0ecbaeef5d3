package boot

import (
	"os"
	"path/filepath"
	"testing"
)

func TestSettingsComeFromTheKernelsArguments(t *testing.T) {
	got := parseArguments("console=ttyS0 bandsox.root=vda quiet bandsox.overlay=tmpfs root=/dev/sda bandsox.transport=vsock bandsox.emulated bandsox.doorbell=4000000000 bandsox.unknown\n")
	if got != (Settings{Root: "vda", Overlay: "tmpfs", Transport: "vsock", Emulated: true, Doorbell: 4000000000}) {
		t.Errorf("%+v", got)
	}
	if got := parseArguments("bandsox.doorbell=-1 bandsox.doorbell=x bandsox.doorbell="); got != (Settings{}) {
		t.Errorf("%+v", got)
	}
	if got := parseArguments(""); got != (Settings{}) {
		t.Errorf("%+v", got)
	}
}

func TestModulesOfOtherTransportsAreSpared(t *testing.T) {
	for _, c := range []struct {
		transport, path string
		want            bool
	}{
		{"virtio-serial", "/modules/vmw_vsock_virtio_transport.ko", true},
		{"virtio-serial", "/modules/virtio_console.ko", false},
		{"vsock", "/modules/virtio_console.ko", true},
		{"vsock", "/modules/vsock.ko", false},
		{"console", "/modules/vsock.ko", true},
		{"vsock", "/modules/virtio_blk.ko", false},
		{"", "/modules/vsock.ko", false},
	} {
		if got := (Settings{Transport: c.transport}).spares(c.path); got != c.want {
			t.Errorf("%s on %q: %v", c.path, c.transport, got)
		}
	}
}

func TestModulesOfDevicesThatAreNotThereAreSpared(t *testing.T) {
	for _, module := range []string{"virtio_net", "net_failover", "virtio_balloon"} {
		if !parseArguments("").spares("/modules/" + module + ".ko") {
			t.Errorf("%s is loaded for nothing", module)
		}
		if parseArguments("bandsox.network bandsox.balloon").spares("/modules/" + module + ".ko") {
			t.Errorf("%s is missing", module)
		}
	}
}

func TestWhatTheNetworkDeviceIsBeforeItIsAnyones(t *testing.T) {
	for line, want := range map[string]Settings{
		"":                {},
		"bandsox.network": {Network: true},
		"bandsox.network=1400 bandsox.gateway=fe80::1": {Network: true, MTU: 1400, Gateway: "fe80::1"},
	} {
		if got := parseArguments(line); got != want {
			t.Errorf("%q: %+v", line, got)
		}
	}
}

func TestAMountPointThatIsASymlinkIsReplacedAndNotFollowed(t *testing.T) {
	dir := t.TempDir()
	elsewhere := filepath.Join(dir, "elsewhere")
	os.Mkdir(elsewhere, 0o755)
	for name, prepare := range map[string]func(string){
		"symlink":   func(p string) { os.Symlink(elsewhere, p) },
		"file":      func(p string) { os.WriteFile(p, nil, 0o600) },
		"directory": func(p string) { os.Mkdir(p, 0o700) },
		"nothing":   func(string) {},
	} {
		path := filepath.Join(dir, name)
		prepare(path)
		if err := ensureDirectory(path); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if info, err := os.Lstat(path); err != nil || !info.IsDir() {
			t.Errorf("%s: %v %v", name, info, err)
		}
	}
}

func TestBlockFileSystemsAreListed(t *testing.T) {
	kinds, err := fileSystems()
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range kinds {
		if kind == "proc" || kind == "tmpfs" || kind == "" {
			t.Errorf("%q needs no device", kind)
		}
	}
}

func TestAModuleLosesItsSignatureAndNothingElse(t *testing.T) {
	signature := func(claimed byte) string {
		return "sig" + string([]byte{0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, claimed}) + signatureMark
	}
	for given, want := range map[string]string{
		"module" + signature(3):     "module",
		"module":                    "module",
		"":                          "",
		signatureMark:               signatureMark,
		"module" + signature(200):   "module" + signature(200), // longer than the file
		signature(3) + "of another": signature(3) + "of another",
	} {
		if got := string(unsigned([]byte(given))); got != want {
			t.Errorf("%q: %q", given, got)
		}
	}
}

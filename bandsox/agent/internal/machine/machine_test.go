package machine

import (
	"os"
	"path/filepath"
	"testing"
)

func TestReplaceFileReplacesASymlinkAndLeavesItsTarget(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "stub"), filepath.Join(dir, "resolv.conf")
	os.WriteFile(target, []byte("stub"), 0o600)
	os.Symlink(target, link)
	if err := ReplaceFile(link, []byte("nameserver 10.0.0.1\n")); err != nil {
		t.Fatal(err)
	}
	if content, _ := os.ReadFile(target); string(content) != "stub" {
		t.Errorf("the target was written: %q", content)
	}
	info, err := os.Lstat(link)
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != 0o644 {
		t.Error(info, err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Error("a temporary file was left: ", entries)
	}
}

func TestWhatSetupWroteIsKnownUntilItIsChanged(t *testing.T) {
	m := &Machine{}
	path := filepath.Join(t.TempDir(), "hosts")
	if m.Wrote(path) {
		t.Error("before it was written")
	}
	if err := m.replaceFile(path, []byte("ours")); err != nil || !m.Wrote(path) {
		t.Error("after: ", err)
	}
	os.WriteFile(path, []byte("theirs"), 0o600)
	if m.Wrote(path) {
		t.Error("though the user has changed it")
	}
}

func TestBootIDIsTheKernels(t *testing.T) {
	id, err := BootID()
	if again, _ := BootID(); err != nil || id == [16]byte{} || id != again {
		t.Error(id, err)
	}
}

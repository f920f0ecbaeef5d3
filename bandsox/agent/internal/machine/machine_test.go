package machine

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
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

func TestARenewalOverwritesWhatSetupHasWrittenAndNothingElse(t *testing.T) {
	m := &Machine{}
	dir := t.TempDir()
	path, other := filepath.Join(dir, "hostname"), filepath.Join(dir, "other")
	inode := func() uint64 {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			t.Fatal(st.Mode, err)
		}
		return st.Ino
	}
	renew := func(content string) {
		t.Helper()
		if err := m.renewFile(path, []byte(content)); err != nil {
			t.Fatal(err)
		}
		if now, _ := os.ReadFile(path); string(now) != content || !m.Wrote(path) {
			t.Errorf("%q instead of %q", now, content)
		}
	}
	os.WriteFile(path, []byte("the image's"), 0o600)
	os.Link(path, other)
	renew("first")
	first := inode()
	for _, content := range []string{"second, longer", "third", ""} {
		if renew(content); inode() != first {
			t.Error("it was made anew for ", content)
		}
	}
	os.Remove(other)
	os.Link(path, other)
	if renew("fourth"); inode() == first {
		t.Error("a file with two names was overwritten")
	}
	os.Remove(path)
	os.Symlink(other, path)
	renew("fifth")
	os.Remove(path)
	renew("sixth")
	if content, _ := os.ReadFile(other); string(content) != "" {
		t.Errorf("another file was written: %q", content)
	}
}

func TestWhatIsPreparedIsOverwrittenByTheRenewal(t *testing.T) {
	dir := t.TempDir()
	files := machineIDFiles
	defer func() { machineIDFiles = files }()
	regular, link, long := filepath.Join(dir, "machine-id"), filepath.Join(dir, "link"), filepath.Join(dir, "long")
	machineIDFiles = []string{regular, link, long, filepath.Join(dir, "missing")}
	os.WriteFile(regular, []byte("the image's\n"), 0o444)
	os.Symlink(regular, link)
	os.WriteFile(long, make([]byte, mostMachineID+1), 0o644)
	m := &Machine{}
	m.PrepareRenewal()
	if content, _ := os.ReadFile(regular); string(content) != "the image's\n" || m.Wrote(regular) {
		t.Errorf("%q, or it counts as the machine's", content)
	}
	before, _ := os.Stat(regular)
	if err := m.renewFile(regular, []byte("other\n")); err != nil || !m.Wrote(regular) {
		t.Fatal(err)
	}
	if after, _ := os.Stat(regular); !os.SameFile(before, after) {
		t.Error("it was made anew")
	}
	if len(m.prepared) != 1 {
		t.Error(m.prepared)
	}
}

func TestWhatARenewalCannotWriteIsTold(t *testing.T) {
	m := &Machine{}
	if err := m.renewFile("/proc/version", []byte("ours")); err == nil || m.Wrote("/proc/version") {
		t.Error("it was written")
	}
}

func TestARenewalLeavesWhatIsToBeWrittenAgain(t *testing.T) {
	m := &Machine{}
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := m.replaceFile(path, []byte("ours")); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(path, []byte("theirs"), 0o600)
	if err := m.renewFile(path, []byte("ours")); err != nil {
		t.Fatal(err)
	}
	if content, _ := os.ReadFile(path); string(content) != "theirs" {
		t.Errorf("%q", content)
	}
}

func TestBootIDIsTheKernels(t *testing.T) {
	id, err := BootID()
	if again, _ := BootID(); err != nil || id == [16]byte{} || id != again {
		t.Error(id, err)
	}
}

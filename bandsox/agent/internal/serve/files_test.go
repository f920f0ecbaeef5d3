package serve

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bandsox.dev/agent/internal/wire"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sys/unix"
)

func (h *host) write(path string, content []byte, more fields) *answer {
	h.t.Helper()
	f := fields{"path": []byte(path)}
	for k, v := range more {
		f[k] = v
	}
	h.request("write", f)
	h.send(content)
	return h.answer()
}

func (h *host) contents(path string) []byte {
	h.t.Helper()
	return h.ok("read", fields{"path": []byte(path)}).stdout.Bytes()
}

func TestFilesOfEverySizeSurviveTheRoundTrip(t *testing.T) {
	h, dir := open(t), t.TempDir()
	for _, size := range []int{0, 1, smallPayload, smallPayload + 1, wire.BulkPayload - 1, wire.BulkPayload, wire.BulkPayload + 1, 5 << 20} {
		content := make([]byte, size)
		rand.Read(content)
		path := filepath.Join(dir, fmt.Sprint(size))
		if a := h.write(path, content, nil); a.failure != nil || a.number(t, "size") != int64(size) {
			t.Fatal(size, a)
		}
		if !bytes.Equal(h.contents(path), content) {
			t.Fatalf("%d bytes came back changed", size)
		}
	}
}

func TestReadTakesAPart(t *testing.T) {
	h, path := open(t), filepath.Join(t.TempDir(), "f")
	h.write(path, []byte("0123456789"), nil)
	for _, c := range []struct {
		offset, length int
		want           string
	}{{0, 3, "012"}, {8, 10, "89"}, {20, 5, ""}, {4, 0, ""}} {
		a := h.ok("read", fields{"path": []byte(path), "offset": c.offset, "length": c.length})
		if a.stdout.String() != c.want || a.number(t, "file_size") != 10 {
			t.Errorf("%+v: %q", c, &a.stdout)
		}
	}
	if !bytes.Contains(h.contents("/proc/self/status"), []byte("Name:")) {
		t.Error("a file without a size reads as empty")
	}
	h.fails(wire.CodeNotFound, "read", fields{"path": []byte(path + "x")})
	h.fails(wire.CodeIsADirectory, "read", fields{"path": []byte("/")})
	fifo := path + ".fifo"
	unix.Mkfifo(fifo, 0o600)
	h.ok("read", fields{"path": []byte(fifo)})
}

func TestAFileAppearsWholeOrNotAtAll(t *testing.T) {
	h, dir := open(t), t.TempDir()
	path := filepath.Join(dir, "f")
	h.write(path, []byte("before"), nil)
	h.request("write", fields{"path": []byte(path)})
	h.frame(wire.HostData, []byte("changed on the way"))
	h.message(wire.HostEnd, fields{"size": 18, "xxh64": xxhash.Sum64([]byte("something else"))})
	if a := h.answer(); a.failure == nil || a.failure.Code != wire.CodeChecksum {
		t.Fatal(a)
	}
	h.request("write", fields{"path": []byte(path)})
	h.frame(wire.HostData, []byte("half"))
	h.socket.Close()
	eventually(t, "no temporary file is left", func() bool {
		entries, _ := os.ReadDir(dir)
		return len(entries) == 1
	})
	if content, _ := os.ReadFile(path); string(content) != "before" {
		t.Fatalf("%q", content)
	}
}

func TestWhatWasAppendedInVainIsCutOff(t *testing.T) {
	h, path := open(t), filepath.Join(t.TempDir(), "log")
	for range 2 {
		h.write(path, []byte("line\n"), fields{"append": true})
	}
	h.request("write", fields{"path": []byte(path), "append": true})
	h.frame(wire.HostData, []byte("half"))
	h.message(wire.Control, fields{"kind": "cancel"})
	if a := h.answer(); a.failure == nil || a.failure.Code != wire.CodeCancelled {
		t.Fatal(a)
	}
	h.write(path, []byte("LI"), fields{"offset": 5})
	if content, _ := os.ReadFile(path); string(content) != "line\nLIne\n" {
		t.Fatalf("%q", content)
	}
}

func TestModeAndOwnerOfAWrittenFile(t *testing.T) {
	h, dir := open(t), t.TempDir()
	path := filepath.Join(dir, "a", "b", "f")
	h.write(path, nil, fields{"parents": true, "mode": 0o4751, "uid": 7, "gid": 8})
	st := h.ok("stat", fields{"path": []byte(path)}).result
	if toInt(st["mode"]) != 0o4751 || toInt(st["uid"]) != 7 || toInt(st["gid"]) != 8 || st["type"] != "file" {
		t.Fatal(st)
	}
	h.write(path, []byte("new"), nil)
	st = h.ok("stat", fields{"path": []byte(path)}).result
	if toInt(st["mode"]) != 0o4751 || toInt(st["uid"]) != 7 || toInt(st["size"]) != 3 {
		t.Fatal("a replaced file keeps its mode and owner: ", st)
	}
	plain := filepath.Join(dir, "plain")
	h.write(plain, nil, nil)
	if st = h.ok("stat", fields{"path": []byte(plain)}).result; toInt(st["mode"]) != 0o644 {
		t.Fatal(st)
	}
	if a := h.write(plain, nil, fields{"exclusive": true}); a.failure == nil || a.failure.Code != wire.CodeExists {
		t.Fatal(a)
	}
}

func TestWriteGoesThroughSymlinksAndIntoDevices(t *testing.T) {
	h, dir := open(t), t.TempDir()
	os.Mkdir(dir+"/d", 0o755)
	os.Symlink("d/target", dir+"/link")
	h.write(dir+"/link", []byte("x"), nil)
	if info, _ := os.Lstat(dir + "/link"); info.Mode()&os.ModeSymlink == 0 {
		t.Error("the symlink was replaced")
	}
	if content, _ := os.ReadFile(dir + "/d/target"); string(content) != "x" {
		t.Errorf("%q", content)
	}
	os.Symlink("loop", dir+"/loop")
	if a := h.write(dir+"/loop", nil, nil); a.failure == nil || a.failure.Code != wire.CodeTooManyLinks {
		t.Error(a)
	}
	h.write("/dev/null", []byte("x"), nil)
	if info, _ := os.Stat("/dev/null"); info.Mode()&os.ModeDevice == 0 {
		t.Fatal("/dev/null is no device any more")
	}
}

func TestLinesAreWholeAndCounted(t *testing.T) {
	h, path := open(t), filepath.Join(t.TempDir(), "f")
	h.write(path, []byte("1\n22\n333\n4444"), nil)
	for _, c := range []struct {
		f                       fields
		want                    string
		skipped, returned, left int64
		truncated               bool
	}{
		{fields{}, "1\n22\n333\n4444", 0, 4, 0, false},
		{fields{"offset": 1, "limit": 2}, "22\n333\n", 1, 2, 1, false},
		{fields{"offset": 9}, "", 4, 0, 0, false},
		{fields{"max_bytes": 6}, "1\n22\n", 0, 2, 2, true},
		{fields{"offset": 3, "max_bytes": 2}, "", 3, 0, 1, true},
	} {
		c.f["path"] = []byte(path)
		a := h.ok("lines", c.f)
		if a.stdout.String() != c.want || a.number(t, "skipped") != c.skipped || a.number(t, "returned") != c.returned ||
			a.number(t, "left") != c.left || a.result["truncated"] != c.truncated {
			t.Errorf("%v: %q %v", c.f, &a.stdout, a.result)
		}
	}
	h.fails(wire.CodeInvalid, "lines", fields{"path": []byte(path), "offset": -1})
}

func TestListTellsEveryNameWhateverItsBytes(t *testing.T) {
	h, dir := open(t), t.TempDir()
	for i := range 1100 {
		os.WriteFile(fmt.Sprintf("%s/%d\xff\n", dir, i), nil, 0o600)
	}
	os.Symlink("/nowhere", dir+"/link")
	a := h.ok("list", fields{"path": []byte(dir)})
	n := 0
	for _, event := range a.events {
		entries := event["entries"].([]any)
		n += len(entries)
		for _, entry := range entries {
			e := entry.(fields)
			if e["name"] == "link" && (e["type"] != "symlink" || e["target"] != "/nowhere") {
				t.Error(e)
			}
		}
		if len(entries) > 512 {
			t.Error(len(entries))
		}
	}
	if n != 1101 {
		t.Error(n)
	}
	h.fails(wire.CodeNotADirectory, "list", fields{"path": []byte("/etc/passwd")})
}

func TestNamesAreMadeMovedAndRemoved(t *testing.T) {
	h, dir := open(t), t.TempDir()
	p := func(name string) []byte { return []byte(dir + "/" + name) }
	h.fails(wire.CodeNotFound, "mkdir", fields{"path": p("a/b/c")})
	h.ok("mkdir", fields{"path": p("a/b/c"), "parents": true, "mode": 0o1777})
	h.ok("mkdir", fields{"path": p("a/b/c"), "parents": true})
	h.fails(wire.CodeExists, "mkdir", fields{"path": p("a")})
	if st := h.ok("stat", fields{"path": p("a/b/c")}).result; toInt(st["mode"]) != 0o1777 {
		t.Error(st)
	}
	h.ok("symlink", fields{"path": p("a/link"), "target": []byte("b")})
	if st := h.ok("stat", fields{"path": p("a/link")}).result; st["type"] != "directory" {
		t.Error(st)
	}
	h.ok("rename", fields{"path": p("a/link"), "to": p("moved")})
	f := h.fails(wire.CodeNotFound, "stat", fields{"path": p("a/link"), "follow": false})
	if *f.Errno != "ENOENT" || string(f.Path) != string(p("a/link")) {
		t.Error(f)
	}
	h.fails(wire.CodeNotEmpty, "remove", fields{"path": p("a")})
	h.ok("remove", fields{"path": p("a"), "recursive": true})
	h.fails(wire.CodeNotFound, "remove", fields{"path": p("a"), "recursive": true})
	h.ok("remove", fields{"path": p("moved")})
}

func TestOwnersAndModesOfATree(t *testing.T) {
	h, dir := open(t), t.TempDir()
	os.Mkdir(dir+"/d", 0o755)
	os.WriteFile(dir+"/d/f", nil, 0o600)
	outside := filepath.Join(t.TempDir(), "outside")
	os.WriteFile(outside, nil, 0o600)
	os.Symlink(outside, dir+"/d/link")
	h.ok("chown", fields{"path": []byte(dir), "uid": 5, "gid": -1, "recursive": true})
	h.ok("chmod", fields{"path": []byte(dir), "mode": 0o700, "recursive": true})
	for path, want := range map[string][3]int64{dir: {5, 0, 0o700}, dir + "/d/f": {5, 0, 0o700}, outside: {0, 0, 0o600}} {
		st := h.ok("stat", fields{"path": []byte(path)}).result
		if toInt(st["uid"]) != want[0] || toInt(st["gid"]) != want[1] || toInt(st["mode"]) != want[2] {
			t.Error(path, st)
		}
	}
	if st := h.ok("stat", fields{"path": []byte(dir + "/d/link"), "follow": false}).result; toInt(st["uid"]) != 5 {
		t.Error("a symlink has an owner of its own: ", st)
	}
}

func TestWatchTellsWhatChanges(t *testing.T) {
	h, dir := open(t), t.TempDir()
	os.Mkdir(dir+"/old", 0o755)
	h.request("watch", fields{"path": []byte(dir), "recursive": true})
	a := &answer{}
	for len(a.events) == 0 {
		h.step(a)
	}
	if a.events[0]["kind"] != "ready" {
		t.Fatal(a.events)
	}
	os.WriteFile(dir+"/old/f", []byte("x"), 0o600)
	os.Rename(dir+"/old/f", dir+"/g")
	os.Chmod(dir+"/g", 0o644)
	os.MkdirAll(dir+"/new/deep", 0o755)
	os.Remove(dir + "/g")
	outside := t.TempDir()
	os.Rename(dir+"/old", outside+"/old")
	want := []string{
		"created " + dir + "/old/f", "modified " + dir + "/old/f", "moved " + dir + "/old/f " + dir + "/g",
		"attributes " + dir + "/g", "created " + dir + "/new", "created " + dir + "/new/deep",
		"removed " + dir + "/g", "removed " + dir + "/old",
	}
	for _, w := range want {
		for !seen(a, w) {
			if h.step(a) {
				t.Fatalf("without %q: %v", w, a.events)
			}
		}
	}
	os.WriteFile(dir+"/new/deep/f", nil, 0o600)
	for !seen(a, "created "+dir+"/new/deep/f") {
		h.step(a)
	}
	h.message(wire.Control, fields{"kind": "cancel"})
	for !h.step(a) {
	}
	if a.result == nil {
		t.Fatal(a.failure)
	}
	h.fails(wire.CodeNotFound, "watch", fields{"path": []byte(dir + "/none")})
}

func seen(a *answer, want string) bool {
	for _, e := range a.events {
		got := fmt.Sprint(e["type"], " ", e["path"])
		if e["to"] != nil {
			got += fmt.Sprint(" ", e["to"])
		}
		if got == want {
			return true
		}
	}
	return false
}

func TestATreeSurvivesTarAndUntar(t *testing.T) {
	h, dir := open(t), t.TempDir()
	src, dst := dir+"/src", dir+"/dst"
	os.MkdirAll(src+"/d/skip", 0o750)
	os.WriteFile(src+"/d/f", []byte("content"), 0o640)
	os.Link(src+"/d/f", src+"/hard")
	os.Symlink("../x\xff", src+"/d/link")
	unix.Mkfifo(src+"/fifo", 0o600)
	os.WriteFile(src+"/d/skip/no", nil, 0o600)
	os.WriteFile(src+"/"+strings.Repeat("long", 50)+"\xfe", []byte("x"), 0o600)
	os.Chown(src+"/d/f", 70000, 5_000_000)
	xattrs := unix.Setxattr(src+"/d/f", "user.mark", []byte("a\x00b"), 0) == nil
	sparse, _ := os.Create(src + "/sparse")
	sparse.WriteAt([]byte("far"), 40<<20)
	sparse.Truncate(50 << 20)
	sparse.Close()
	a := h.ok("tar", fields{"path": []byte(src), "base": []byte("top"), "exclude": [][]byte{[]byte("d/skip")}})
	if a.number(t, "bytes") != int64(a.stdout.Len()) || a.stdout.Len() > 1<<20 {
		t.Fatal("the holes were packed: ", a.stdout.Len())
	}
	h.request("untar", fields{"path": []byte(dst)})
	h.send(a.stdout.Bytes())
	if b := h.answer(); b.failure != nil || b.number(t, "entries") != a.number(t, "entries") {
		t.Fatal(b.failure, b.result, a.result)
	}
	var st, hard unix.Stat_t
	unix.Stat(dst+"/top/d/f", &st)
	unix.Stat(dst+"/top/hard", &hard)
	if st.Uid != 70000 || st.Gid != 5_000_000 || st.Mode&0o7777 != 0o640 || st.Ino != hard.Ino {
		t.Errorf("%+v", st)
	}
	if target, _ := os.Readlink(dst + "/top/d/link"); target != "../x\xff" {
		t.Errorf("%q", target)
	}
	if _, err := os.Stat(dst + "/top/d/skip"); err == nil {
		t.Error("an excluded directory is there")
	}
	value := make([]byte, 9)
	if n, _ := unix.Getxattr(dst+"/top/d/f", "user.mark", value); xattrs && string(value[:max(n, 0)]) != "a\x00b" {
		t.Errorf("%q", value)
	}
	content, _ := os.ReadFile(dst + "/top/sparse")
	unix.Stat(dst+"/top/sparse", &st)
	if len(content) != 50<<20 || string(content[40<<20:40<<20+3]) != "far" || st.Blocks*512 > 1<<20 {
		t.Error("the sparse file: ", len(content), st.Blocks)
	}
	if info, _ := os.Stat(dst + "/top/d"); info.Mode().Perm() != 0o750 {
		t.Error(info.Mode())
	}
}

func TestTarOfASingleFileAndWithoutATopEntry(t *testing.T) {
	h, dir := open(t), t.TempDir()
	os.WriteFile(dir+"/f", []byte("x"), 0o600)
	names := func(f fields) (names []string) {
		tr := tar.NewReader(&h.ok("tar", f).stdout)
		for {
			header, err := tr.Next()
			if err == io.EOF {
				return names
			}
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, header.Name)
		}
	}
	if n := names(fields{"path": []byte(dir + "/f")}); len(n) != 1 || n[0] != "f" {
		t.Error(n)
	}
	if n := names(fields{"path": []byte(dir), "base": []byte("")}); len(n) != 1 || n[0] != "f" {
		t.Error(n)
	}
	h.fails(wire.CodeNotFound, "tar", fields{"path": []byte(dir + "/none")})
	h.fails(wire.CodeInvalid, "tar", fields{"path": []byte(dir), "exclude": [][]byte{[]byte("[")}})
}

func TestUntarRefusesWhatIsNoArchiveAndWhatWasChanged(t *testing.T) {
	h, dir := open(t), t.TempDir()
	h.request("untar", fields{"path": []byte(dir)})
	h.send(bytes.Repeat([]byte("not a tar "), 2000))
	if a := h.answer(); a.failure == nil || a.failure.Code != wire.CodeInvalid {
		t.Fatal(a)
	}
	h.request("untar", fields{"path": []byte(dir)})
	h.frame(wire.HostData, make([]byte, 1024))
	h.message(wire.HostEnd, fields{"size": 1024, "xxh64": 1})
	if a := h.answer(); a.failure == nil || a.failure.Code != wire.CodeChecksum {
		t.Fatal(a)
	}
	h.ok("ping", nil)
}

func TestLayerNeedsAWritableLayer(t *testing.T) {
	open(t).fails(wire.CodeUnsupported, "layer", nil)
}

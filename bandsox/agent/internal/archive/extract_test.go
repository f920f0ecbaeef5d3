package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

// archive builds a tar stream that any attacker could build.
func archive(t testing.TB, headers ...tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		content := []byte(nil)
		if h.Typeflag == tar.TypeReg {
			content = []byte("content of " + h.Name)
			h.Size = int64(len(content))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		w.Write(content)
	}
	w.Close()
	return &b
}

func file(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }
func dir(name string) tar.Header  { return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755} }
func symlink(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
}
func link(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}
}

// sandbox is a directory to unpack into beside one that nothing may touch.
func sandbox(t *testing.T) (root, outside string) {
	t.Helper()
	top := t.TempDir()
	root, outside = top+"/root", top+"/outside"
	os.Mkdir(root, 0o755)
	os.Mkdir(outside, 0o755)
	os.WriteFile(outside+"/secret", []byte("secret"), 0o600)
	t.Cleanup(func() {
		entries, _ := os.ReadDir(outside)
		content, _ := os.ReadFile(outside + "/secret")
		var st unix.Stat_t
		unix.Stat(outside+"/secret", &st)
		if len(entries) != 1 || string(content) != "secret" || st.Mode&0o7777 != 0o600 || st.Nlink != 1 {
			t.Error("something outside was touched: ", entries, string(content), st.Mode, st.Nlink)
		}
		if entries, _ := os.ReadDir(top); len(entries) != 2 {
			t.Error("something was made beside the root: ", entries)
		}
	})
	return root, outside
}

var keep = Options{KeepOwner: true, Context: context.Background()}

func TestNothingEscapesTheTree(t *testing.T) {
	for name, build := range map[string]func(outside string) []tar.Header{
		"a name that goes up":               func(string) []tar.Header { return []tar.Header{file("../outside/new")} },
		"a name that goes up in its middle": func(string) []tar.Header { return []tar.Header{file("a/../../outside/new")} },
		"an absolute name":                  func(o string) []tar.Header { return []tar.Header{file(o + "/new")} },
		"a symlink to outside, then a file through it": func(o string) []tar.Header {
			return []tar.Header{symlink("way", o), file("way/new"), file("way/secret")}
		},
		"a relative symlink up, then a file through it": func(string) []tar.Header {
			return []tar.Header{symlink("way", "../outside"), file("way/new")}
		},
		"a symlink, then a file of its name": func(o string) []tar.Header {
			return []tar.Header{symlink("f", o+"/secret"), file("f")}
		},
		"a symlink, then a directory of its name": func(o string) []tar.Header {
			return []tar.Header{symlink("d", o), dir("d"), file("d/new")}
		},
		"a hard link to outside": func(o string) []tar.Header {
			return []tar.Header{link("l", o+"/secret"), link("m", "../outside/secret"), file("l")}
		},
		"a hard link through a symlink": func(o string) []tar.Header {
			return []tar.Header{symlink("way", o), link("l", "way/secret")}
		},
		"a hard link to a symlink, then a file through it": func(o string) []tar.Header {
			return []tar.Header{symlink("s", o+"/secret"), link("l", "s"), file("l")}
		},
		"a symlink to a symlink up": func(string) []tar.Header {
			return []tar.Header{dir("a"), symlink("a/up", ".."), symlink("way", "a/up/../outside"), file("way/new")}
		},
		"a mode through a symlink": func(o string) []tar.Header {
			return []tar.Header{symlink("f", o+"/secret"), {Typeflag: tar.TypeSymlink, Name: "f", Linkname: o + "/secret", Mode: 0o777}}
		},
		"a file through /proc": func(o string) []tar.Header {
			return []tar.Header{symlink("p", "/proc/self/cwd"), file("p/new")}
		},
		"a whiteout that goes up": func(string) []tar.Header { return []tar.Header{file("a/.wh..."), file(".wh..")} },
		"a whiteout through a symlink": func(o string) []tar.Header {
			return []tar.Header{symlink("way", o), file("way/.wh.secret")}
		},
		"an opaque marker through a symlink": func(o string) []tar.Header {
			return []tar.Header{symlink("way", o), file("way/.wh..wh..opq")}
		},
	} {
		for _, options := range []Options{keep, {KeepOwner: true, Whiteouts: true, Context: context.Background()}} {
			t.Run(name, func(t *testing.T) {
				root, outside := sandbox(t)
				_, _ = Extract(root, archive(t, build(outside)...), options)
			})
		}
	}
}

func TestAKernelWithoutOpenat2IsAsSafe(t *testing.T) {
	root, outside := sandbox(t)
	os.MkdirAll(root+"/a/b", 0o755)
	os.Symlink(outside, root+"/way")
	tree, err := openTree(root)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.close()
	if fd, err := tree.walk([]string{"a", "b"}); err != nil {
		t.Error(err)
	} else {
		unix.Close(fd)
	}
	if _, err := tree.walk([]string{"way"}); err == nil {
		t.Error("a symlink was followed")
	}
}

func TestSymlinksOfTheTreeAreFollowedInsideIt(t *testing.T) {
	root, _ := sandbox(t)
	os.MkdirAll(root+"/usr/lib", 0o755)
	os.Symlink("/usr/lib", root+"/lib") // as in every merged-usr distribution
	if _, err := Extract(root, archive(t, dir("lib"), file("lib/new")), keep); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(root + "/usr/lib/new"); err != nil {
		t.Error(err)
	}
	if info, _ := os.Lstat(root + "/lib"); info.Mode()&os.ModeSymlink == 0 {
		t.Error("/lib was replaced")
	}
}

func TestWhatIsThereIsReplaced(t *testing.T) {
	root, _ := sandbox(t)
	os.WriteFile(root+"/f", []byte("old"), 0o600)
	os.Link(root+"/f", root+"/other")
	os.Mkdir(root+"/empty", 0o755)
	os.MkdirAll(root+"/full/x", 0o755)
	if _, err := Extract(root, archive(t, file("f"), file("empty")), keep); err != nil {
		t.Fatal(err)
	}
	if content, _ := os.ReadFile(root + "/other"); string(content) != "old" {
		t.Error("a hard link of the replaced file was written through")
	}
	_, err := Extract(root, archive(t, file("full")), keep)
	if f := wire.AsFailure(err); f.Code != wire.CodeNotEmpty {
		t.Error(err)
	}
}

func TestWhiteoutsOfALayer(t *testing.T) {
	root, _ := sandbox(t)
	for _, name := range []string{"gone/deep", "opaque/old", "opaque/sub/old", "kept/f", "file"} {
		os.MkdirAll(filepath.Dir(root+"/"+name), 0o755)
		os.WriteFile(root+"/"+name, nil, 0o600)
	}
	layer := archive(t, dir("opaque"), dir("opaque/sub"), file("opaque/sub/new"), file("opaque/.wh..wh..opq"), file(".wh.gone"), file(".wh.absent"), dir("file"))
	if _, err := Extract(root, layer, Options{KeepOwner: true, Whiteouts: true, Context: context.Background()}); err != nil {
		t.Fatal(err)
	}
	if got := listTree(t, root); got != "file kept kept/f opaque opaque/sub opaque/sub/new" {
		t.Error(got)
	}
}

func listTree(t *testing.T, root string) string {
	t.Helper()
	var names []string
	filepath.Walk(root, func(path string, _ os.FileInfo, _ error) error {
		if path != root {
			names = append(names, strings.TrimPrefix(path, root+"/"))
		}
		return nil
	})
	sort.Strings(names)
	return strings.Join(names, " ")
}

func TestAnUpperDirectoryBecomesALayer(t *testing.T) {
	upper := t.TempDir()
	os.MkdirAll(upper+"/etc/opaque", 0o755)
	os.MkdirAll(upper+"/proc", 0o755)
	os.WriteFile(upper+"/etc/new", []byte("x"), 0o600)
	if err := unix.Mknod(upper+"/etc/gone", unix.S_IFCHR, 0); err != nil {
		t.Skip("whiteouts need the right to make devices: ", err)
	}
	if err := unix.Setxattr(upper+"/etc/opaque", "trusted.overlay.opaque", []byte("y"), 0); err != nil {
		t.Skip("no trusted attributes here: ", err)
	}
	fd, _ := os.Open(upper)
	defer fd.Close()
	var out bytes.Buffer
	if _, err := Layer(int(fd.Fd()), func(below string) bool { return below == "proc" }, &out); err != nil {
		t.Fatal(err)
	}
	var names []string
	tr := tar.NewReader(&out)
	for h, err := tr.Next(); err == nil; h, err = tr.Next() {
		names = append(names, h.Name)
		for key := range h.PAXRecords {
			if strings.Contains(key, "overlay") {
				t.Error("overlayfs's own attribute was packed: ", key)
			}
		}
	}
	if got := strings.Join(names, " "); got != "etc/ etc/.wh.gone etc/new etc/opaque/ etc/opaque/.wh..wh..opq" {
		t.Error(got)
	}
}

func TestPaxRecordsCountTheirOwnLength(t *testing.T) {
	for n := range 1200 {
		record := paxRecord("k", strings.Repeat("v", n))
		if length, _, _ := strings.Cut(record, " "); length != strconv.Itoa(len(record)) {
			t.Fatalf("%q is %d long", length, len(record))
		}
	}
}

func TestAHoleWithoutEndDoesNotKeepTheUnpackingFromEnding(t *testing.T) {
	var out bytes.Buffer
	p := newPacker(&out)
	empty, err := os.Create(t.TempDir() + "/f")
	if err != nil {
		t.Fatal(err)
	}
	defer empty.Close()
	header := &tar.Header{Typeflag: tar.TypeReg, Name: "hole", Size: 1 << 62, Mode: 0o600}
	if err := p.sparse(empty, header, nil); err != nil {
		t.Fatal(err)
	}
	p.finish()
	root, _ := sandbox(t)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := Extract(root, &out, Options{KeepOwner: true, Context: ctx}); err == nil {
		t.Fatal("unpacked without an end")
	}
	if entries, _ := os.ReadDir(root); len(entries) != 0 {
		t.Error("the incomplete file is left: ", entries)
	}
}

// FuzzExtract unpacks any bytes beside something that must not change.
func FuzzExtract(f *testing.F) {
	f.Add(archive(f, symlink("a", ".."), file("a/x"), link("b", "a"), file(".wh.c")).Bytes())
	f.Fuzz(func(t *testing.T, stream []byte) {
		root, _ := sandbox(t)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, _ = Extract(root, bytes.NewReader(stream), Options{Context: ctx, UID: os.Getuid(), GID: os.Getgid(), Whiteouts: len(stream)%2 == 0})
	})
}

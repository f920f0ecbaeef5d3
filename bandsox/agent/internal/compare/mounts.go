// Package compare tells which files differ between two states of a machine: its image under one
// writable layer, and under another.
//
// The layers are on block devices that a stranger has written, so this runs in a machine that is
// thrown away afterwards: nothing it reads is trusted with anything but the answer.
package compare

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

const readOnly = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME

var deviceName = regexp.MustCompile(`^vd[a-z]$`)

// state is one of the two: what programs would see, and the layer that makes it so.
type state struct {
	merged, upper string
}

// mountState mounts the layer on a device, and the image under it, below the directory dir. Whoever calls it unmounts both again, also
// after an error.
func mountState(image *os.File, device, dir string) (state, error) {
	if !deviceName.MatchString(device) {
		return state{}, wire.Fail(wire.CodeInvalid, "%q is not the name of a disk", device)
	}
	disk, merged := filepath.Join(dir, "disk"), filepath.Join(dir, "merged")
	for _, place := range []string{dir, disk, merged} {
		if err := os.Mkdir(place, 0o700); err != nil {
			return state{}, err
		}
	}
	if err := unix.Mount("/dev/"+device, disk, "ext4", readOnly, ""); err != nil {
		return state{}, wire.FailPath("/dev/"+device, err)
	}
	upper := filepath.Join(disk, "upper")
	if info, err := os.Lstat(upper); err != nil || !info.IsDir() {
		return state{}, wire.Fail(wire.CodeInvalid, "there is no writable layer on %s", device)
	}
	layers := fmt.Sprintf("lowerdir=%s:/proc/self/fd/%d,redirect_dir=off,metacopy=off", upper, image.Fd())
	if err := unix.Mount("overlay", merged, "overlay", readOnly, layers); err != nil {
		return state{}, wire.FailPath(upper, err)
	}
	return state{merged, upper}, nil
}

func unmountState(dir string) {
	for _, name := range []string{"merged", "disk"} {
		_ = unix.Unmount(filepath.Join(dir, name), unix.MNT_DETACH)
	}
}

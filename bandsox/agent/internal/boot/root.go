package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"bandsox.dev/agent/internal/uevent"

	"golang.org/x/sys/unix"
)

// Where the parts of the root are mounted before they become one. Once the machine runs, no
// path leads there any more.
const (
	lowerDir = "/.lower"
	layerDir = "/.layer"
	newRoot  = "/.root"
)

const (
	imageKind = "squashfs" // the file system that the host makes of an image
	inMemory  = "tmpfs"    // the setting for a writable layer that is on no disk
)

// mountRoot waits for the disks and mounts the read-only root file system.
func mountRoot(s *System) error {
	if err := awaitDisks(s); err != nil {
		return err
	}
	if err := mountImage(s.Settings.Root); err != nil {
		return err
	}
	var err error
	s.Image, err = os.Open(lowerDir)
	return err
}

// awaitDisks gives the disks their driver and waits until all of them are there.
func awaitDisks(s *System) error {
	events, err := uevent.Listen()
	if err != nil {
		return err
	}
	defer events.Close()
	if s.disksHeld {
		if err := probeDisks(); err != nil {
			return fmt.Errorf("the disks' driver: %w", err)
		}
	}
	names := strings.Split(s.Settings.Disks, ",")
	names = append(names, s.Settings.Root)
	if s.Settings.Overlay != inMemory {
		names = append(names, s.Settings.Overlay)
	}
	for _, name := range names {
		if name == "" {
			continue
		}
		if err := awaitDevice(events, name); err != nil {
			return err
		}
	}
	return nil
}

// mountImage mounts the root's device with whatever file system fits.
func mountImage(root string) error {
	if root == "" {
		return mountPoint{"tmpfs", lowerDir, "tmpfs", 0, "mode=0755"}.mount()
	}
	device := node(root)
	kinds, err := fileSystems()
	if err != nil {
		return err
	}
	var tried []string
	for _, kind := range kinds {
		err := mountPoint{device, lowerDir, kind, unix.MS_RDONLY | unix.MS_SILENT, ""}.mount()
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINVAL) {
			return err // the file system is of this kind, and broken
		}
		tried = append(tried, kind)
	}
	return fmt.Errorf("%s holds none of the file systems %s", device, strings.Join(tried, ", "))
}

// fileSystems lists the kinds that the kernel knows for block devices, that of images first: to fail with another one takes as long as
// to mount it.
func fileSystems() ([]string, error) {
	content, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return nil, err
	}
	var kinds []string
	for line := range strings.Lines(string(content)) {
		if kind, ok := strings.CutPrefix(line, "\t"); ok { // otherwise "nodev" stands before the tab
			kinds = append(kinds, strings.TrimSpace(kind))
		}
	}
	if place := slices.Index(kinds, imageKind); place > 0 {
		kinds = slices.Insert(slices.Delete(kinds, place, place+1), 0, imageKind)
	}
	return kinds, nil
}

// mountOverlay puts the writable layer over the root. Renamed directories and changed
// attributes copy whole files into the layer (redirect_dir and metacopy are off), so that the
// layer can be read as an image layer by itself.
func mountOverlay(s *System) error {
	var err error
	switch s.Settings.Overlay {
	case "":
		return bindRoot()
	case inMemory:
		err = mountPoint{"tmpfs", layerDir, "tmpfs", 0, "mode=0755"}.mount()
	default:
		device := node(s.Settings.Overlay)
		err = mountPoint{device, layerDir, "ext4", unix.MS_NOATIME, "noinit_itable"}.mount() // its inode tables are zeros: the host made it as holes
	}
	if err != nil {
		return err
	}
	upper, work := filepath.Join(layerDir, "upper"), filepath.Join(layerDir, "work")
	for _, dir := range []string{upper, work, newRoot} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	places := "lowerdir=" + lowerDir + ",upperdir=" + upper + ",workdir=" + work
	root := mountPoint{"overlay", newRoot, "overlay", 0, places + ",redirect_dir=off,metacopy=off"}
	if err := root.mount(); err != nil {
		return err
	}
	return s.openLayer(upper)
}

// bindRoot makes the root visible at newRoot as it is, read-only or tmpfs.
func bindRoot() error {
	if err := os.MkdirAll(newRoot, 0o755); err != nil {
		return err
	}
	return unix.Mount(lowerDir, newRoot, "", unix.MS_BIND, "")
}

func (s *System) openLayer(upper string) (err error) {
	s.Layer = &Layer{}
	if s.Layer.Mount, err = os.Open(layerDir); err != nil {
		return err
	}
	s.Layer.Upper, err = os.Open(upper)
	return err
}

// switchRoot makes newRoot the root of everything, with what the kernel shows of itself, and completes it.
func switchRoot(s *System) error {
	s.Paths.Lock()
	defer s.Paths.Unlock()
	for _, name := range []string{"dev", "proc", "sys"} {
		target := filepath.Join(newRoot, name)
		if err := ensureDirectory(target); err != nil {
			return err
		}
		if err := unix.Mount("/"+name, target, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("moving /%s: %w", name, err)
		}
	}
	if err := unix.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	return furnish()
}

// ensureDirectory makes a mount point. What an image may have put there instead, such as a
// symlink that would lead the mount elsewhere, is replaced in the writable layer.
func ensureDirectory(path string) error {
	info, err := os.Lstat(path)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		if err := os.Remove(path); err != nil {
			return err
		}
	case !os.IsNotExist(err):
		return err
	}
	return os.Mkdir(path, 0o755)
}

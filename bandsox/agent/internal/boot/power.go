package boot

import (
	"encoding/binary"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// settleTime is how long processes that were killed may take to disappear.
const settleTime = 5 * time.Second

// ShutDown ends the machine: TERM to all, KILL after the grace, file systems synced and made
// read-only, power off. alone must return when no process is left. It does not return.
func (s *System) ShutDown(grace time.Duration, reboot bool, alone func()) {
	gone := make(chan struct{})
	go func() {
		alone()
		close(gone)
	}()
	_ = unix.Kill(-1, unix.SIGTERM)
	_ = unix.Kill(-1, unix.SIGCONT)
	if !within(gone, grace) {
		_ = unix.Kill(-1, unix.SIGKILL)
		within(gone, settleTime)
	}
	unix.Sync()
	_ = unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
	if s.Layer != nil {
		// A mount that no path leads to is reached through its descriptor.
		mount := "/proc/self/fd/" + strconv.Itoa(int(s.Layer.Mount.Fd()))
		_ = unix.Mount("", mount, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
		unix.Sync()
	}
	powerOff(reboot)
}

func within(event <-chan struct{}, limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-event:
		return true
	case <-timer.C:
		return false
	}
}

// powerOff ends the machine at once. Where the kernel cannot switch the power off it would
// only halt, and the VMM would run on; there a restart ends the VMM, which is started so that a
// restart is its end.
func powerOff(reboot bool) {
	unix.Sync()
	command := unix.LINUX_REBOOT_CMD_POWER_OFF
	if reboot || !canPowerOff() {
		command = unix.LINUX_REBOOT_CMD_RESTART
	}
	_ = unix.Reboot(command)
	select {}
}

// canPowerOff repeats the kernel's own test (Linux, drivers/acpi/sleep.c,
// acpi_sleep_state_supported): ACPI knows the state S5, and on hardware-reduced ACPI the sleep
// registers are there. On arm64 the firmware (PSCI) can always.
func canPowerOff() bool {
	if runtime.GOARCH != "amd64" {
		return true
	}
	const (
		flagsAt        = 112 // offsets in the FADT (ACPI 6.5, table 5.9)
		sleepControlAt = 244
		addressAt      = 4 // in a generic address structure
		hardwareReduce = 1 << 20
	)
	fadt, err := os.ReadFile("/sys/firmware/acpi/tables/FACP")
	if err != nil || len(fadt) < flagsAt+4 {
		return false
	}
	dsdt, err := os.ReadFile("/sys/firmware/acpi/tables/DSDT")
	if err != nil || !strings.Contains(string(dsdt), "_S5_") {
		return false
	}
	if binary.LittleEndian.Uint32(fadt[flagsAt:])&hardwareReduce == 0 {
		return true
	}
	register := sleepControlAt + addressAt
	return len(fadt) >= register+8 && binary.LittleEndian.Uint64(fadt[register:]) != 0
}

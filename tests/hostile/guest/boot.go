package main

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// stages are the agent's own, in order.
var stages = []string{"modules", "mounts", "link", "root", "overlay", "switch", "ready"}

// boots are the ways in which a boot goes wrong before anything is said on the link.
var boots = map[string]func(){
	"silent": func() {
		for {
			unix.Pause() // a bare select is a deadlock to Go's runtime, which ends the process
		}
	},
	"restart": func() { end(unix.LINUX_REBOOT_CMD_RESTART) },
	"exit":    func() { os.Exit(3) },
	"fatal": func() { // a reason without end, which a terminal would obey
		say("fatal: root: \x1b]0;owned\x07\x1b[2J" + strings.Repeat("no \u202eway ", 10_000))
		end(unix.LINUX_REBOOT_CMD_POWER_OFF)
	},
	"unknown-stage": func() {
		say("stage: " + strings.Repeat("x", 100_000))
		say("fatal: " + strings.Repeat("y", 100_000) + ": z")
		end(unix.LINUX_REBOOT_CMD_POWER_OFF)
	},
	"slow-to-read": func() { // what makes a careless search for known messages take hours
		os.Stderr.WriteString(strings.Repeat("EXT4-fs (", 20_000) + strings.Repeat("squashfs", 5_000) + "\n")
		end(unix.LINUX_REBOOT_CMD_POWER_OFF)
	},
	"flood": func() {
		for {
			chatter()
		}
	},
	"chatter": chatter, // and all is well
}

// chatter prints 8 KiB that a terminal would obey.
func chatter() {
	os.Stderr.WriteString(strings.Repeat("\x1b[31m\x1b]0;owned\x07\u202eflood\r", 300) + "\n")
}

// misboot carries out the way that was chosen. off-STAGE: announce the stages up to this one, and switch the power off.
func misboot(name string) {
	if last, ok := strings.CutPrefix(name, "off-"); ok {
		for _, stage := range stages {
			say("stage: " + stage)
			if stage == last {
				end(unix.LINUX_REBOOT_CMD_POWER_OFF)
			}
		}
	}
	if way := boots[name]; way != nil {
		way()
	}
}

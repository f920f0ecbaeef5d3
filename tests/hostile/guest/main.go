// Command hostile-guest is an /init that speaks the guest protocol wrongly in every way, for
// tests of the host.
//
// It boots like the agent and answers what a machine is set up with. After that each request is
// answered by the present misbehaviour (see misbehaviours), which is chosen by a command that is
// never run:
//
//	exec argv=["misbehave", NAME]
//
// or by the kernel argument hostile.link=NAME. How the boot goes wrong is chosen by hostile.boot=NAME (see
// boots) before the link is there, by hostile.prepare=NAME when the machine is to be saved on the way, and by hostile.setup=NAME when it
// is set up.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"bandsox.dev/agent/internal/transport"
	"bandsox.dev/agent/internal/uevent"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(); err != nil {
		say("fatal: link: " + err.Error())
	}
	end(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	events, arguments, err := prepare()
	if err != nil {
		return err
	}
	misboot(arguments["hostile.boot"])
	guest := &guest{prepare: arguments["hostile.prepare"], setup: arguments["hostile.setup"]}
	guest.choose(arguments["hostile.link"])
	if arguments["bandsox.transport"] == "vsock" {
		listener, err := transport.ListenVsock()
		if err != nil {
			return err
		}
		if err := ring(arguments["bandsox.doorbell"]); err != nil {
			return err
		}
		say("stage: ready")
		for {
			socket, err := listener.Accept()
			if err != nil {
				return err
			}
			go guest.serve(&line{Channel: socket, vsock: true})
		}
	}
	return servePorts(guest, events)
}

// prepare mounts what is needed, loads the modules and reads the kernel's arguments.
func prepare() (*uevent.Listener, map[string]string, error) {
	for target, kind := range map[string]string{"/dev": "devtmpfs", "/proc": "proc", "/sys": "sysfs"} {
		if err := unix.Mount(kind, target, kind, 0, ""); err != nil && err != unix.EBUSY {
			return nil, nil, fmt.Errorf("mounting %s: %w", target, err)
		}
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, nil, err
	}
	arguments := map[string]string{}
	for argument := range strings.FieldsSeq(string(line)) {
		key, value, _ := strings.Cut(argument, "=")
		arguments[key] = value
	}
	events, err := uevent.Listen()
	if err != nil {
		return nil, nil, err
	}
	list, err := os.ReadFile("/modules.list")
	if err != nil && !os.IsNotExist(err) {
		return nil, nil, err
	}
	for path := range strings.FieldsSeq(string(list)) {
		module, err := os.Open(path)
		if err != nil {
			return nil, nil, err
		}
		if err := unix.FinitModule(int(module.Fd()), "", 0); err != nil && err != unix.EEXIST {
			return nil, nil, fmt.Errorf("%s: %w", path, err)
		}
		module.Close()
	}
	return events, arguments, nil
}

// ring tells the host that there is a listener, as the agent does, which else would not ask for anything. A token that the host gives is
// taken and forgotten.
func ring(door string) error {
	if door == "" {
		go transport.RingHost()
		return nil
	}
	port, err := strconv.ParseUint(door, 10, 32)
	if err != nil {
		return err
	}
	_, err = transport.AskHost(uint32(port))
	return err
}

// servePorts serves the virtio-serial ports as they appear.
func servePorts(guest *guest, events *uevent.Listener) error {
	known := map[string]bool{}
	for {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, name := range names {
			node := "/dev/" + filepath.Base(filepath.Dir(name))
			content, _ := os.ReadFile(name)
			if known[node] || !strings.HasPrefix(string(content), "org.bandsox.") {
				continue
			}
			if port, err := transport.OpenPort(node); err == nil {
				if len(known) == 0 {
					say("stage: ready")
				}
				known[node] = true
				go guest.serve(&line{Channel: port, node: node})
			}
		}
		if err := events.Wait(); err != nil {
			return err
		}
	}
}

func say(text string) { fmt.Fprint(os.Stderr, "bandsox-agent: "+text+"\n") }

// end ends the machine.
func end(command int) {
	_ = unix.Reboot(command)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) // where the power cannot be switched off
	select {}
}

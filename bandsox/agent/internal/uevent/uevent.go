// Package uevent waits for the kernel to announce devices.
package uevent

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// ErrTimeout says that the awaited thing did not appear before its deadline.
var ErrTimeout = errors.New("timed out")

// Listener hears every uevent of the kernel from the moment it is opened, so that a
// device that appears between a look and the wait is not missed.
type Listener struct {
	fd  int
	buf [8192]byte
}

// Listen opens the kernel's uevent netlink group.
func Listen() (*Listener, error) { return listen(unix.NETLINK_KOBJECT_UEVENT, 1) }

// ListenLinks hears what changes of network devices.
func ListenLinks() (*Listener, error) { return listen(unix.NETLINK_ROUTE, unix.RTMGRP_LINK) }

func listen(protocol int, groups uint32) (*Listener, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("uevent socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("uevent bind: %w", err)
	}
	return &Listener{fd: fd}, nil
}

// Close ends the listening.
func (l *Listener) Close() { unix.Close(l.fd) }

// Wait returns at the next uevent. A lost event (the socket's queue ran over) counts
// as one: whoever waits looks again at what is there.
func (l *Listener) Wait() error {
	for {
		_, err := unix.Read(l.fd, l.buf[:])
		if err == nil || err == unix.ENOBUFS {
			return nil
		}
		if err != unix.EINTR {
			return fmt.Errorf("uevent read: %w", err)
		}
	}
}

// Until calls found at once and after every uevent until it says true, and gives up
// at the deadline.
func (l *Listener) Until(deadline time.Time, found func() bool) error {
	for !found() {
		left := time.Until(deadline)
		if left <= 0 {
			return ErrTimeout
		}
		fds := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(left.Milliseconds())+1)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("uevent poll: %w", err)
		}
		if n > 0 {
			if err := l.Wait(); err != nil {
				return err
			}
		}
	}
	return nil
}

package serve

import (
	"errors"

	"bandsox.dev/agent/internal/compare"
	"bandsox.dev/agent/internal/wire"
)

const (
	// differencesAtOnce and differenceBytes bound one EVENT.
	differencesAtOnce = 256
	differenceBytes   = 128 << 10
)

// errEnough ends a comparison that has found as much as was asked for.
var errEnough = errors.New("enough differences")

// compareStates tells which files differ between two states of the machine that its disks hold.
func compareStates(k *call) (any, error) {
	r, err := request[wire.CompareRequest](k)
	if err != nil {
		return nil, err
	}
	if k.conn.server.Image == nil {
		return nil, wire.Fail(wire.CodeUnsupported, "this agent has not booted the machine")
	}
	batch := differences{call: k, left: r.Limit}
	err = compare.Devices(k, k.conn.server.Image, r.Before, r.After, batch.add)
	if err != nil && err != errEnough {
		return nil, wire.AsFailure(err)
	}
	return wire.CompareResult{Truncated: err == errEnough}, batch.flush()
}

// differences are sent many at a time.
type differences struct {
	call *call
	left int64
	held []wire.Difference
	size int
}

func (d *differences) add(one wire.Difference) error {
	if d.left <= 0 {
		return errEnough
	}
	d.left--
	d.held = append(d.held, one)
	d.size += len(one.Path)
	if len(d.held) < differencesAtOnce && d.size < differenceBytes {
		return nil
	}
	return d.flush()
}

func (d *differences) flush() error {
	if len(d.held) == 0 {
		return nil
	}
	event := wire.DifferencesEvent{Differences: d.held}
	d.held, d.size = nil, 0
	return d.call.event(event)
}

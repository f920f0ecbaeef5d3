package serve

import (
	"context"
	"time"

	"bandsox.dev/agent/internal/wire"
)

const (
	// goodClock is a round trip to the host after which its answer is near enough; the clock is wrong by half of it at
	// most.
	goodClock = 20 * time.Millisecond
	// clockRounds is how often the host is asked for a better answer.
	clockRounds = 8
	// poorClock is a round trip whose answer does not do yet: on a host that is busy all round trips may be long for a while. It is
	// asked for a better one up to mostClockRounds times.
	poorClock       = 50 * time.Millisecond
	mostClockRounds = 64
)

// askTheTime asks the host what time it is, which it answers at once, and takes that for the time in the middle of the round trip
// (as RFC 5905, section 8). The request itself may have waited long: it was sent before the machine ran. The results are how far the
// clock is to be moved, and by how much it may be wrong then.
func (k *call) askTheTime() (step, off time.Duration, err error) {
	answers := make(chan float64, 1)
	k.handleControl(func(m wire.ControlMessage) {
		if m.Kind == "clock" {
			select {
			case answers <- m.Time:
			default:
			}
		}
	})
	var best time.Duration
	for round := range mostClockRounds {
		asked := time.Now()
		if err := k.event(wire.ClockEvent{Kind: "clock"}); err != nil {
			return 0, 0, err
		}
		select {
		case host := <-answers:
			now := time.Now()
			trip := now.Sub(asked)
			if round == 0 || trip < best {
				best = trip
				step = time.Unix(0, int64(host*1e9)).Add(trip / 2).Sub(now.Round(0))
			}
		case <-k.Done():
			return 0, 0, context.Cause(k)
		}
		if best <= goodClock || best <= poorClock && round+1 >= clockRounds {
			break
		}
	}
	return step, best / 2, nil
}

package filter

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// maxAddresses is how many addresses are known by name at a time.
	maxAddresses = 1 << 14
	// maxNames is how many names of one address.
	maxNames = 64
)

// answers remembers which names the machine was told an address for, and until when that holds.
type answers struct {
	mu sync.Mutex
	of map[netip.Addr]map[string]time.Time
}

// add remembers an answer. Of too many addresses the one goes that was told the longest ago.
func (a *answers) add(name string, address netip.Addr, until time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.of == nil {
		a.of = map[netip.Addr]map[string]time.Time{}
	}
	names := a.of[address]
	if names == nil {
		if len(a.of) >= maxAddresses {
			a.sweep(time.Now())
		}
		names = map[string]time.Time{}
		a.of[address] = names
	}
	if _, known := names[name]; !known && len(names) >= maxNames {
		delete(names, firstToEnd(names))
	}
	names[name] = until
}

// sweep forgets what does not hold any more, and a quarter of the rest if that is not enough.
func (a *answers) sweep(now time.Time) {
	type aged struct {
		address netip.Addr
		until   time.Time
	}
	var left []aged
	for address, names := range a.of {
		var last time.Time
		for name, until := range names {
			if until.Before(now) {
				delete(names, name)
			} else if until.After(last) {
				last = until
			}
		}
		if len(names) == 0 {
			delete(a.of, address)
		} else {
			left = append(left, aged{address, last})
		}
	}
	if len(left) > maxAddresses*3/4 {
		slices.SortFunc(left, func(x, y aged) int { return x.until.Compare(y.until) })
		for _, entry := range left[:len(left)-maxAddresses*3/4] {
			delete(a.of, entry.address)
		}
	}
}

func firstToEnd(names map[string]time.Time) string {
	first := ""
	for name, until := range names {
		if first == "" || until.Before(names[first]) {
			first = name
		}
	}
	return first
}

// names returns the names of an address, those that hold the longest first.
func (a *answers) names(address netip.Addr) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	known, now := a.of[address], time.Now()
	var found []string
	for name, until := range known {
		if until.After(now) {
			found = append(found, name)
		}
	}
	slices.SortFunc(found, func(x, y string) int { return cmp.Or(known[y].Compare(known[x]), cmp.Compare(x, y)) })
	return found
}

// each calls a function with every answer that holds.
func (a *answers) each(visit func(name string, address netip.Addr, left time.Duration)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	for address, names := range a.of {
		for name, until := range names {
			if left := until.Sub(now); left > 0 {
				visit(name, address, left)
			}
		}
	}
}

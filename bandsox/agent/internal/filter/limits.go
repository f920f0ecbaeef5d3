package filter

import "fmt"

// Limits is how much of the network a machine may use; 0 is no limit.
type Limits struct {
	Connections int `json:"connections"` // at a time
}

// rules refuse new connections beyond the limit. Those that the filter carries are counted by it.
func (l Limits) rules() []string {
	if l.Connections == 0 {
		return nil
	}
	return []string{fmt.Sprintf("ct count over %d jump refuse", l.Connections)}
}

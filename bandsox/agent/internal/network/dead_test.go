package network

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

// table is one of sockets: those of a listener, of loopback, of an address that is there, of one that is gone, and a line that is none.
const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 06C713C6:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 100 1 0 100 0 0 10 0
   1: 0100007F:1F90 0100007F:8235 01 00000000:00000000 00:00000000 00000000     0        0 101 1 0 100 0 0 10 0
   2: 0A0013C6:1F90 0A7100CB:0050 01 00000000:00000000 00:00000000 00000000     0        0 102 1 0 100 0 0 10 0
   3: 06C713C6:A1F0 0A7100CB:0050 01 00000000:00000000 00:00000000 00000000     0        0 103 1 0 100 0 0 10 0
   4: 06C713C6:A1F1 0A7100CB:0050 06 00000000:00000000 00:00000000 00000000     0        0 0 1 0 100 0 0 10 0
   5: 0000000000000000FFFF000006C713C6:A1F2 0000000000000000FFFF00000A7100CB:0050 08 00000000:00000000 00:00000000 00000000     0        0 105 1
   6: 0000000000000000FFFF0000zz 01
`

func TestConnectionsFromAddressesThatAreGoneAreDead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tcp")
	if err := os.WriteFile(path, []byte(table), 0o600); err != nil {
		t.Fatal(err)
	}
	dead := map[uint64]bool{}
	if err := readSockets(path, map[netip.Addr]bool{netip.MustParseAddr("198.19.0.10"): true}, dead); err != nil {
		t.Fatal(err)
	}
	if len(dead) != 2 || !dead[103] || !dead[105] {
		t.Fatalf("dead are %v, not 103 and 105", dead)
	}
}

func TestNothingIsDeadOfAMachineThatKeepsItsAddresses(t *testing.T) {
	if count, err := CloseDead(); count != 0 || err != nil {
		t.Fatalf("%d closed, %v", count, err)
	}
}

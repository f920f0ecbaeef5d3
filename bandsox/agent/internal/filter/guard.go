package filter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// kernel is the filter's socket to nftables, and what depends on it: a table that is gone as soon as the socket is closed, whoever
// ends the filter (nft(8), `flags owner`). That table marks what is forwarded; without the mark nothing gets through.
type kernel struct {
	mu      sync.Mutex
	conn    *nftables.Conn
	addedTo map[string]*nftables.Set // sets of the present generation by name
}

const (
	ownerTable = "bandsox_filter"

	// Numbers of linux/netfilter/nf_tables.h that golang.org/x/sys lacks.
	tableFlagOwner = 2
)

func openKernel() (*kernel, error) {
	k := &kernel{addedTo: map[string]*nftables.Set{}}
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(addOwnedTable))
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	k.conn = conn
	owned := &nftables.Table{Family: nftables.TableFamilyINet, Name: ownerTable}
	chain := conn.AddChain(&nftables.Chain{
		Name: "alive", Table: owned, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityFilter - 10),
	})
	conn.AddRule(&nftables.Rule{Table: owned, Chain: chain, Exprs: []expr.Any{
		&expr.Immediate{Register: 1, Data: binary.NativeEndian.AppendUint32(nil, alive)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	}})
	return k, wrap("the table that ends with the filter", conn.Flush())
}

// addOwnedTable adds the table on the socket that owns it; the library has no word for that flag.
func addOwnedTable(conn *netlink.Conn) error {
	attributes, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_TABLE_NAME, Data: append([]byte(ownerTable), 0)},
		{Type: unix.NFTA_TABLE_FLAGS, Data: binary.BigEndian.AppendUint32(nil, tableFlagOwner)},
	})
	if err != nil {
		return err
	}
	message := func(kind int, flags netlink.HeaderFlags, family byte, resource uint16, data []byte) netlink.Message {
		general := binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
		header := netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request | flags}
		return netlink.Message{Header: header, Data: append(general, data...)}
	}
	newTable := unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWTABLE
	if _, err := conn.SendMessages([]netlink.Message{
		message(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil),
		message(newTable, netlink.Create|netlink.Excl|netlink.Acknowledge, byte(nftables.TableFamilyINet), 0, attributes),
		message(unix.NFNL_MSG_BATCH_END, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil),
	}); err != nil {
		return err
	}
	_, err = conn.Receive()
	return err
}

// element is an address that a set is to have for some time.
type element struct {
	set     string
	address netip.Addr
	timeout time.Duration
}

// admit puts addresses into their sets, in one transaction. One that is there gets the new time.
func (k *kernel) admit(elements []element) error {
	if len(elements) == 0 {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range elements {
		set := k.set(e.set, e.address)
		member := []nftables.SetElement{{Key: e.address.AsSlice(), Timeout: e.timeout}}
		// The kernel leaves the time of one that is there as it is, and deletes none that is not there.
		if err := errors.Join(k.conn.SetAddElements(set, member), k.conn.SetDeleteElements(set, member), k.conn.SetAddElements(set, member)); err != nil {
			return err
		}
	}
	return wrap("the sets of addresses", k.conn.Flush())
}

func (k *kernel) set(name string, address netip.Addr) *nftables.Set {
	if found := k.addedTo[name]; found != nil {
		return found
	}
	kind := nftables.TypeIPAddr
	if address.Is6() {
		kind = nftables.TypeIP6Addr
	}
	k.addedTo[name] = &nftables.Set{
		Table: &nftables.Table{Family: nftables.TableFamilyINet, Name: "bandsox"}, Name: name, KeyType: kind, HasTimeout: true,
	}
	return k.addedTo[name]
}

// forget forgets the sets of older generations.
func (k *kernel) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.addedTo)
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, os.NewSyscallError("netlink", err))
}

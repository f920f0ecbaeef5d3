package netlink

import (
	"errors"

	"golang.org/x/sys/unix"
)

// HasTable tells whether this thread's namespace has a table of nftables' family "inet" (nft(8)). A kernel without nftables has none.
func HasTable(name string) (bool, error) {
	conn, err := dial(unix.NETLINK_NETFILTER)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	defer conn.Close()
	header := []byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0} // struct nfgenmsg
	switch err := conn.change(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETTABLE, 0, join(header, text(unix.NFTA_TABLE_NAME, name))); err {
	case nil:
		return true, nil
	case unix.ENOENT, unix.EINVAL: // the latter from a kernel whose netfilter knows no such messages
		return false, nil
	default:
		return false, err
	}
}

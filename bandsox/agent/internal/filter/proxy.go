package filter

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxConnections = 4096
	filesEach      = 6 // two sockets, and a pipe for each direction in which the kernel moves the bytes
	reservedFiles  = 256
	helloPatience  = 15 * time.Second // until it is known what a connection is for
	dialPatience   = 30 * time.Second
)

// proxy carries connections whose names are looked at. It holds each from the moment it is accepted.
type proxy struct {
	filter *Filter
	mu     sync.Mutex
	open   map[*connection]struct{}
	most   int // at a time
	web    *web
}

// connection is one of the machine's, and what is known of it.
type connection struct {
	*net.TCPConn
	to      netip.AddrPort
	name    string // that it is for, once that is known
	checked bool
	entry   Entry
	read    atomic.Int64 // bytes, from the machine
	written atomic.Int64
}

func newProxy(filter *Filter) *proxy {
	p := &proxy{filter: filter, open: map[*connection]struct{}{}, most: maxConnections}
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err == nil {
		p.most = min(p.most, int(min(files.Cur, 1<<20)-reservedFiles)/filesEach)
	}
	p.web = newWeb(p)
	return p
}

func (p *proxy) serve(listener net.Listener) error {
	for {
		accepted, err := listener.Accept()
		if errors.Is(err, unix.ECONNABORTED) {
			continue
		} else if err != nil {
			return fmt.Errorf("the proxy: %w", err)
		}
		conn, ok := accepted.(*net.TCPConn)
		if !ok {
			return errors.New("the proxy: not TCP")
		}
		to, err := destination(conn)
		if err != nil || !p.admits() {
			reset(conn)
			continue
		}
		c := &connection{TCPConn: conn, to: to}
		p.mu.Lock()
		p.open[c] = struct{}{}
		p.mu.Unlock()
		go p.carry(c)
	}
}

func (p *proxy) admits() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	limit := p.most
	if wanted := p.filter.policy().Connections; wanted > 0 {
		limit = min(limit, wanted)
	}
	return len(p.open) < limit
}

// forget is the end of a connection.
func (p *proxy) forget(c *connection) {
	p.mu.Lock()
	_, there := p.open[c]
	delete(p.open, c)
	p.mu.Unlock()
	if there && c.entry.ID != 0 {
		p.filter.log.closes(c.entry, c.read.Load(), c.written.Load())
	}
	c.TCPConn.Close()
}

// carry finds out what a connection is for, and carries it if that is allowed.
func (p *proxy) carry(c *connection) {
	handedOn := false
	defer func() {
		if !handedOn {
			p.forget(c)
		}
	}()
	switch c.to.Port() {
	case 80:
		handedOn = true
		p.web.take(c, nil)
	case 443:
		handedOn = p.carryTLS(c)
	default:
		handedOn = p.carryOther(c)
	}
}

// carryTLS returns whether the connection was handed on, to be looked into.
func (p *proxy) carryTLS(c *connection) bool {
	_ = c.SetReadDeadline(time.Now().Add(helloPatience))
	name, begun, err := readHello(c)
	if err != nil && len(begun) == 0 {
		return false
	}
	if reason := p.admit(c, name); reason != "" {
		p.refuse(c, name, reason)
		return false
	}
	_ = c.SetReadDeadline(time.Time{})
	if p.filter.vault.looksInto(name, c.to.Port()) {
		p.web.takeTLS(c, begun, name)
		return true
	}
	upstream, err := dial(c)
	if err != nil {
		reset(c.TCPConn)
		return false
	}
	p.wentOut(c)
	join(c, upstream, begun)
	return false
}

// carryOther carries what may be any protocol, in which either side may speak first. What the machine says first is looked at: in TLS for
// its name; HTTP is handed on. It returns whether the connection was.
func (p *proxy) carryOther(c *connection) bool {
	if reason := p.admitAddress(c); reason != "" {
		p.refuse(c, "", reason)
		return false
	}
	upstream, err := dial(c)
	if err != nil {
		reset(c.TCPConn)
		return false
	}
	var decided atomic.Bool // whether the server has spoken first, or the connection is handed on
	answering := make(chan struct{})
	go func() {
		defer close(answering)
		answer(c, upstream, &decided)
	}()
	first, err := peek(c)
	if err == nil && looksLikeHTTP(first) && decided.CompareAndSwap(false, true) {
		upstream.Close() // it has not heard anything
		<-answering
		p.web.take(c, first)
		return true
	}
	if err == nil && looksLikeTLS(first) {
		name, whole, _ := readHello(io.MultiReader(bytes.NewReader(first), c))
		if reason := p.admit(c, name); reason != "" {
			p.refuse(c, name, reason)
			reset(upstream)
			return false
		}
		if p.filter.vault.looksInto(name, c.to.Port()) && decided.CompareAndSwap(false, true) {
			upstream.Close()
			<-answering
			p.web.takeTLS(c, whole, name)
			return true
		}
		first = whole
	}
	p.wentOut(c)
	if _, err := upstream.Write(first); err == nil {
		c.read.Add(int64(len(first)))
		carryOneWay(upstream, c.TCPConn, &c.read)
	}
	<-answering
	upstream.Close()
	return false
}

// answer carries what a server says, unless the connection is handed on before it says anything.
func answer(c *connection, upstream *net.TCPConn, decided *atomic.Bool) {
	first := make([]byte, 4096)
	n, err := upstream.Read(first)
	if !decided.CompareAndSwap(false, true) {
		return
	}
	if written, failed := c.TCPConn.Write(first[:n]); failed == nil {
		c.written.Add(int64(written))
	}
	if err != nil && err != io.EOF {
		reset(c.TCPConn)
		return
	}
	carryOneWay(c.TCPConn, upstream, &c.written)
}

// admit decides on a connection that is for a name, and returns why not.
func (p *proxy) admit(c *connection, name string) string {
	reason := p.filter.decide(c.to, name)
	if reason == "" {
		p.mu.Lock()
		c.name, c.checked = name, true
		p.mu.Unlock()
	}
	return reason
}

// admitAddress decides on a connection of which only the address is known yet.
func (p *proxy) admitAddress(c *connection) string {
	policy := p.filter.policy()
	if policy.allowsAddress(&p.filter.place, c.to, "tcp") {
		return ""
	}
	for _, name := range p.filter.answers.names(c.to.Addr()) {
		if p.filter.decide(c.to, name) == "" {
			return ""
		}
	}
	return "no rule allows this address"
}

// decide tells why a TCP connection to an address for a name is refused; empty: it is not.
func (f *Filter) decide(to netip.AddrPort, name string) string {
	policy := f.policy()
	switch {
	case policy.deniesAddress(to, "tcp"):
		return "a rule denies this address"
	case name != "" && policy.deniesName(name, "tcp", to.Port()):
		return "a rule denies this name"
	case policy.allowsAddress(&f.place, to, "tcp"):
		return ""
	case name == "":
		return "it does not say which name it is for"
	case !policy.allowsName(name, "tcp", to.Port()):
		return "no rule allows this name"
	case f.place.isSpecial(to.Addr()):
		return "the address is none of the Internet's"
	}
	for _, known := range f.answers.names(to.Addr()) {
		if policy.allowsName(known, "tcp", to.Port()) && !policy.deniesName(known, "tcp", to.Port()) {
			return ""
		}
	}
	return "the address is that of no name that is allowed"
}

// refuse ends a connection at once.
func (p *proxy) refuse(c *connection, name, reason string) {
	p.filter.log.refused(Entry{Protocol: "tcp", Name: name, Address: c.to.Addr(), Port: c.to.Port(), Reason: reason})
	reset(c.TCPConn)
}

// dial connects to where a connection goes.
func dial(c *connection) (*net.TCPConn, error) {
	conn, err := net.DialTimeout("tcp", c.to.String(), dialPatience)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// wentOut writes down, once, that a connection is open.
func (p *proxy) wentOut(c *connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.entry.ID == 0 {
		name := c.name
		if name == "" {
			name = p.filter.nameOf(c.to.Addr())
		}
		c.entry = p.filter.log.opens(Entry{Protocol: "tcp", Name: name, Address: c.to.Addr(), Port: c.to.Port()})
	}
}

// review ends the connections that the policy does not allow any more.
func (p *proxy) review() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		if c.checked && p.filter.decide(c.to, c.name) != "" || !c.checked && p.admitAddress(c) != "" {
			reset(c.TCPConn)
		}
	}
}

// join carries both directions until both have ended.
func join(c *connection, upstream *net.TCPConn, begun []byte) {
	defer upstream.Close()
	if _, err := upstream.Write(begun); err != nil {
		return
	}
	c.read.Add(int64(len(begun)))
	done := make(chan struct{})
	go func() {
		defer close(done)
		carryOneWay(c.TCPConn, upstream, &c.written)
	}()
	carryOneWay(upstream, c.TCPConn, &c.read)
	<-done
}

// carryOneWay carries bytes until one side ends; the kernel moves them by itself (splice(2)). An end is handed on; a reset too.
func carryOneWay(to, from *net.TCPConn, carried *atomic.Int64) {
	n, err := io.Copy(to, from)
	carried.Add(n)
	if err != nil {
		reset(to)
		reset(from)
		return
	}
	_ = to.CloseWrite()
}

// reset ends a connection with RST instead of FIN.
func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	conn.Close()
}

func peek(c *connection) ([]byte, error) {
	buffer := make([]byte, 16)
	n, err := c.Read(buffer)
	return buffer[:n], err
}

// destination is where a connection was going before it was led here (linux/netfilter_ipv4.h, SO_ORIGINAL_DST).
func destination(conn *net.TCPConn) (netip.AddrPort, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	local := conn.LocalAddr().(*net.TCPAddr).AddrPort()
	var found netip.AddrPort
	failed := raw.Control(func(fd uintptr) {
		if local.Addr().Unmap().Is4() {
			var request *unix.IPv6Mreq // the first of its bytes are as long as a sockaddr_in
			if request, err = unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, unix.SO_ORIGINAL_DST); err == nil {
				address := netip.AddrFrom4([4]byte(request.Multiaddr[4:8]))
				found = netip.AddrPortFrom(address, binary.BigEndian.Uint16(request.Multiaddr[2:4]))
			}
			return
		}
		var info *unix.IPv6MTUInfo // begins with a sockaddr_in6
		if info, err = unix.GetsockoptIPv6MTUInfo(int(fd), unix.SOL_IPV6, unix.SO_ORIGINAL_DST); err == nil {
			port := binary.NativeEndian.AppendUint16(nil, info.Addr.Port)
			found = netip.AddrPortFrom(netip.AddrFrom16(info.Addr.Addr), binary.BigEndian.Uint16(port))
		}
	})
	if err = errors.Join(failed, err); err != nil {
		return netip.AddrPort{}, os.NewSyscallError("getsockopt", err)
	}
	if found == local {
		return found, errors.New("a connection to the filter itself")
	}
	return found, nil
}

package filter

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"
)

const (
	dnsTries    = 3
	dnsPatience = 2 * time.Second // for one answer of one name server

	// A machine may keep an answer for at most longestTTL seconds; what it was told holds a while longer, so that nobody who keeps to
	// that meets a closed door.
	longestTTL  = 3600
	shortestTTL = 5
	grace       = 2 * time.Minute

	maxQueries        = 128 // at a time
	maxDNSConnections = 32
	maxAnswers        = 64 // addresses of one answer that are given on
	udpSize           = 1232
)

// resolver answers the machine's questions of names: what its policy allows, from the name servers of the host.
type resolver struct {
	filter *Filter
	slots  chan struct{}
	udp    *dns.Client
	tcp    *dns.Client
	port   string // of the name servers
}

func newResolver(filter *Filter) *resolver {
	client := func(network string) *dns.Client {
		return &dns.Client{Net: network, Timeout: dnsPatience, UDPSize: udpSize}
	}
	return &resolver{filter, make(chan struct{}, maxQueries), client("udp"), client("tcp"), "53"}
}

// serve answers on sockets of the same port until one of them fails.
func (r *resolver) serve(packets []net.PacketConn, listeners []net.Listener) error {
	failed := make(chan error)
	run := func(server *dns.Server) {
		server.Handler, server.ReadTimeout, server.WriteTimeout, server.MaxTCPQueries = r, dnsPatience*dnsTries, dnsPatience, 64
		go func() { failed <- server.ActivateAndServe() }()
	}
	for _, packet := range packets {
		run(&dns.Server{PacketConn: packet, UDPSize: udpSize})
	}
	for _, listener := range listeners {
		run(&dns.Server{Listener: netutil.LimitListener(listener, maxDNSConnections)})
	}
	return <-failed
}

// ServeDNS answers one question.
func (r *resolver) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	_, overTCP := w.RemoteAddr().(*net.TCPAddr)
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	default:
		_ = w.WriteMsg(failure(query, dns.RcodeServerFailure))
		return
	}
	answer := r.answer(query)
	if !overTCP {
		size := dns.MinMsgSize
		if edns := query.IsEdns0(); edns != nil {
			size = min(max(size, int(edns.UDPSize())), udpSize)
		}
		answer.Truncate(size)
	}
	_ = w.WriteMsg(answer)
}

func (r *resolver) answer(query *dns.Msg) *dns.Msg {
	if query.Opcode != dns.OpcodeQuery || len(query.Question) != 1 || query.Question[0].Qclass != dns.ClassINET || query.Response {
		return failure(query, dns.RcodeNotImplemented)
	}
	question := query.Question[0]
	name := strings.ToLower(strings.TrimSuffix(question.Name, "."))
	switch question.Qtype {
	case dns.TypeANY, dns.TypeAXFR, dns.TypeIXFR:
		return failure(query, dns.RcodeNotImplemented)
	}
	policy := r.filter.policy()
	if !policy.resolves(name) {
		r.filter.log.refused(Entry{Protocol: "dns", Name: name, Reason: "no rule allows this name"})
		return blocked(query)
	}
	switch question.Qtype {
	case dns.TypeHTTPS, dns.TypeSVCB: // they would hide names from those who look at connections, and carry addresses
		return empty(query)
	}
	reply, err := r.ask(question)
	if err != nil {
		return failure(query, dns.RcodeServerFailure)
	}
	return r.passOn(policy, query, reply, name)
}

// ask asks the host's name servers, one after the other.
func (r *resolver) ask(question dns.Question) (*dns.Msg, error) {
	servers := r.filter.place.Resolvers
	if len(servers) == 0 {
		return nil, errors.New("no name servers")
	}
	var last error
	for try := range dnsTries {
		server := net.JoinHostPort(servers[try%len(servers)].String(), r.port)
		message := new(dns.Msg)
		message.SetQuestion(question.Name, question.Qtype)
		message.SetEdns0(udpSize, false)
		reply, err := r.exchange(message, server)
		if err == nil && reply.Rcode != dns.RcodeServerFailure && reply.Rcode != dns.RcodeRefused {
			return reply, nil
		}
		last = errors.Join(err, errors.New("no name server answers"))
	}
	return nil, last
}

func (r *resolver) exchange(message *dns.Msg, server string) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dnsPatience)
	defer cancel()
	reply, _, err := r.udp.ExchangeContext(ctx, message, server)
	if err == nil && reply.Truncated {
		reply, _, err = r.tcp.ExchangeContext(ctx, message, server)
	}
	if err != nil {
		return nil, err
	}
	asked := message.Question[0]
	if !reply.Response || len(reply.Question) != 1 || !strings.EqualFold(reply.Question[0].Name, asked.Name) || reply.Question[0].Qtype != asked.Qtype {
		return nil, errors.New("an answer to another question")
	}
	return reply, nil
}

// passOn makes the machine's answer of a name server's: what belongs to the question, without addresses that the name is not to have.
// The addresses are let through before the machine learns them.
func (r *resolver) passOn(policy *Policy, query, reply *dns.Msg, name string) *dns.Msg {
	answer := new(dns.Msg)
	answer.SetRcode(query, reply.Rcode)
	answer.RecursionAvailable = true
	var addresses []netip.Addr
	ttl := uint32(longestTTL)
	rebound := false
	for _, record := range chain(reply.Answer, query.Question[0]) {
		ttl = min(ttl, max(record.Header().Ttl, shortestTTL))
		if address := addressOf(record); address.IsValid() {
			if !r.mayHave(policy, address) {
				rebound = true
				r.filter.log.refused(Entry{Protocol: "dns", Name: name, Address: address, Reason: "a name of the Internet with an address that is not"})
				continue
			}
			if len(addresses) == maxAnswers {
				continue
			}
			addresses = append(addresses, address)
		}
		answer.Answer = append(answer.Answer, record)
	}
	for _, record := range answer.Answer {
		record.Header().Ttl = min(record.Header().Ttl, ttl)
	}
	if rebound && len(addresses) == 0 {
		return blocked(query)
	}
	if len(answer.Answer) == 0 { // how long it holds that there is nothing
		answer.Ns = slices.DeleteFunc(reply.Ns, func(record dns.RR) bool { return record.Header().Rrtype != dns.TypeSOA })
	}
	if err := r.filter.learn(name, addresses, time.Duration(ttl)*time.Second+grace); err != nil {
		r.filter.complain(err)
		return failure(query, dns.RcodeServerFailure)
	}
	withEDNS(query, answer)
	return answer
}

// mayHave tells whether an answer may hold this address: one of the Internet, or one that is allowed by itself.
func (r *resolver) mayHave(policy *Policy, address netip.Addr) bool {
	return !r.filter.place.isSpecial(address) || slices.ContainsFunc(policy.Allow, func(rule Rule) bool {
		return rule.Name == "" && rule.Net.Contains(address) && r.filter.place.kindOf(rule.Net) != general
	})
}

// chain returns the records that answer a question: those of its name, and those of the names that CNAME records lead to.
func chain(records []dns.RR, question dns.Question) []dns.RR {
	var found []dns.RR
	name := question.Name
	for range 16 {
		next := ""
		for _, record := range records {
			header := record.Header()
			if header.Class != dns.ClassINET || !strings.EqualFold(header.Name, name) {
				continue
			}
			alias, isAlias := record.(*dns.CNAME)
			if header.Rrtype == question.Qtype || isAlias {
				found = append(found, dns.Copy(record))
			}
			if isAlias && header.Rrtype != question.Qtype {
				next = alias.Target
			}
		}
		if next == "" {
			break
		}
		name = next
	}
	return found
}

func addressOf(record dns.RR) netip.Addr {
	var ip net.IP
	switch r := record.(type) {
	case *dns.A:
		ip = r.A
	case *dns.AAAA:
		address, _ := netip.AddrFromSlice(r.AAAA.To16())
		return address // a mapped IPv4 address stays one of IPv6, and is special
	}
	address, _ := netip.AddrFromSlice(ip.To4())
	return address
}

// blocked says that there is no such name, and to whoever wants to know that it is kept back (RFC 8914).
func blocked(query *dns.Msg) *dns.Msg {
	answer := failure(query, dns.RcodeNameError)
	withEDNS(query, answer)
	if edns := answer.IsEdns0(); edns != nil {
		edns.Option = append(edns.Option, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeBlocked, ExtraText: "network policy"})
	}
	return answer
}

func empty(query *dns.Msg) *dns.Msg {
	answer := failure(query, dns.RcodeSuccess)
	withEDNS(query, answer)
	return answer
}

func failure(query *dns.Msg, code int) *dns.Msg {
	answer := new(dns.Msg)
	answer.SetRcode(query, code)
	answer.RecursionAvailable = true
	return answer
}

func withEDNS(query, answer *dns.Msg) {
	if query.IsEdns0() != nil && answer.IsEdns0() == nil {
		answer.SetEdns0(udpSize, false)
	}
}

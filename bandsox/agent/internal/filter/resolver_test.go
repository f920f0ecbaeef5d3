package filter

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func farFuture() time.Time { return time.Now().Add(time.Hour) }

// upstream is a name server on loopback, which answers with what `answer` makes of the question.
func upstream(t *testing.T, answer func(*dns.Msg) *dns.Msg) string {
	t.Helper()
	packet, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: packet, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, query *dns.Msg) {
		_ = w.WriteMsg(answer(query))
	})}
	go func() { _ = server.ActivateAndServe() }()
	t.Cleanup(func() { _ = server.Shutdown() })
	_, port, _ := net.SplitHostPort(packet.LocalAddr().String())
	return port
}

func records(lines ...string) func(*dns.Msg) *dns.Msg {
	return func(query *dns.Msg) *dns.Msg {
		reply := new(dns.Msg)
		reply.SetReply(query)
		for _, line := range lines {
			record, err := dns.NewRR(line)
			if err != nil {
				panic(err)
			}
			reply.Answer = append(reply.Answer, record)
		}
		return reply
	}
}

func testLog(t *testing.T) (*Log, func() string) {
	t.Helper()
	var files [2]*os.File
	for i := range files {
		file, err := os.Create(filepath.Join(t.TempDir(), fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { file.Close() })
		files[i] = file
	}
	return NewLog(files), func() string {
		text := ""
		for _, file := range files {
			content, _ := os.ReadFile(file.Name())
			text += string(content)
		}
		return text
	}
}

func testResolver(t *testing.T, policy *Policy, answer func(*dns.Msg) *dns.Msg) (*resolver, func() string) {
	t.Helper()
	log, written := testLog(t)
	f := &Filter{place: place, log: log, kernel: &kernel{}}
	f.place.Resolvers = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	f.rules.Store(policy)
	r := newResolver(f)
	r.port = upstream(t, answer)
	return r, written
}

func ask(name string, kind uint16) *dns.Msg {
	query := new(dns.Msg)
	query.SetQuestion(dns.Fqdn(name), kind)
	return query
}

func texts(records []dns.RR) []string {
	var found []string
	for _, record := range records {
		found = append(found, strings.Join(strings.Fields(record.String()), " "))
	}
	return found
}

// A policy that allows all of the Internet has no sets, so that these need no kernel's.
var everything = &Policy{Allow: []Rule{network("0.0.0.0/0", ""), network("::/0", "")}}

func TestAnAnswerHasWhatBelongsToTheQuestionOnly(t *testing.T) {
	r, _ := testResolver(t, everything, records(
		"www.example.org. 60 IN CNAME host.cdn.test.", "host.cdn.test. 9000 IN A 203.0.113.9", "bank.example. 60 IN A 203.0.113.66"))
	answer := r.answer(ask("www.example.org", dns.TypeA))
	want := []string{"www.example.org. 60 IN CNAME host.cdn.test.", "host.cdn.test. 60 IN A 203.0.113.9"}
	if got := texts(answer.Answer); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if names := r.filter.answers.names(netip.MustParseAddr("203.0.113.9")); !slices.Equal(names, []string{"www.example.org"}) {
		t.Errorf("%q", names)
	}
	if names := r.filter.answers.names(netip.MustParseAddr("203.0.113.66")); names != nil {
		t.Errorf("an address that was not asked for: %q", names)
	}
}

func TestAddressesThatAreNotTheInternetsAreKeptBack(t *testing.T) {
	r, written := testResolver(t, everything, records(
		"x.example. 60 IN A 10.1.2.3", "x.example. 60 IN A 192.0.2.2", "x.example. 60 IN A 198.19.0.9", "x.example. 60 IN A 203.0.113.9"))
	if got := texts(r.answer(ask("x.example", dns.TypeA)).Answer); !slices.Equal(got, []string{"x.example. 60 IN A 203.0.113.9"}) {
		t.Errorf("%q", got)
	}
	if log := written(); strings.Count(log, "refused") != 3 || !strings.Contains(log, "10.1.2.3") {
		t.Error(log)
	}
	r, _ = testResolver(t, everything, records("x.example. 60 IN AAAA ::ffff:10.1.2.3", "x.example. 60 IN AAAA fd00::1"))
	if answer := r.answer(ask("x.example", dns.TypeAAAA)); answer.Rcode != dns.RcodeNameError || len(answer.Answer) > 0 {
		t.Error(answer)
	}
}

func TestANameWithoutARuleIsNotAskedFor(t *testing.T) {
	asked := make(chan string, 16)
	r, _ := testResolver(t, &Policy{Allow: []Rule{named("api.example.com")}}, func(query *dns.Msg) *dns.Msg {
		asked <- query.Question[0].Name
		return records()(query)
	})
	for _, name := range []string{"evil.test", "secret-as-a-label.evil.test", "api.example.com.evil.test"} {
		if answer := r.answer(ask(name, dns.TypeA)); answer.Rcode != dns.RcodeNameError {
			t.Error(answer)
		}
	}
	for _, kind := range []uint16{dns.TypeANY, dns.TypeAXFR} {
		if answer := r.answer(ask("api.example.com", kind)); answer.Rcode != dns.RcodeNotImplemented {
			t.Error(answer)
		}
	}
	r.answer(ask("API.example.COM", dns.TypeTXT))
	if name := <-asked; !strings.EqualFold(name, "api.example.com.") || len(asked) > 0 {
		t.Error(name, len(asked))
	}
}

func TestAnAnswerToAnotherQuestionIsNone(t *testing.T) {
	r, _ := testResolver(t, everything, func(query *dns.Msg) *dns.Msg {
		reply := records("x.example. 60 IN A 203.0.113.9")(query)
		reply.Question[0].Name = "y.example."
		return reply
	})
	if answer := r.answer(ask("x.example", dns.TypeA)); answer.Rcode != dns.RcodeServerFailure {
		t.Error(answer)
	}
}

func TestTooManyAnswersForgetTheOldest(t *testing.T) {
	var a answers
	first := netip.MustParseAddr("10.0.0.0")
	address := first
	for i := range maxAddresses + 1 {
		a.add("x", address, time.Now().Add(time.Minute+time.Duration(i)*time.Second))
		address = address.Next()
	}
	if len(a.of) > maxAddresses || a.names(first) != nil || a.names(address.Prev()) == nil {
		t.Error(len(a.of))
	}
	for i := range maxNames + 1 {
		a.add(fmt.Sprint(i), first, time.Now().Add(time.Minute+time.Duration(i)*time.Second))
	}
	if names := a.names(first); len(names) != maxNames || slices.Contains(names, "0") {
		t.Error(len(names))
	}
}

package filter

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"
)

var place = Place{
	TAP:      "tap0",
	Gateway:  []netip.Addr{netip.MustParseAddr("198.19.0.5"), netip.MustParseAddr("fd62:616e:6473::5")},
	Host:     []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("10.9.9.9")},
	Machines: []netip.Prefix{netip.MustParsePrefix("198.19.0.0/16"), netip.MustParsePrefix("fd62:616e:6473::/112")},
	Special: []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("198.18.0.0/15"),
		netip.MustParsePrefix("::/8"), netip.MustParsePrefix("fc00::/7"),
	},
}

func network(text, protocol string, ports ...Ports) Rule {
	return Rule{Net: netip.MustParsePrefix(text), Protocol: protocol, Ports: ports}
}

func named(name string, ports ...Ports) Rule {
	if len(ports) == 0 {
		ports = []Ports{{80, 80}, {443, 443}}
	}
	return Rule{Name: name, Protocol: "tcp", Ports: ports}
}

func TestAddressesAreDecidedByTheNarrowestClaim(t *testing.T) {
	internet := []Rule{network("0.0.0.0/0", ""), network("::/0", "")}
	for _, c := range []struct {
		allow, deny []Rule
		to          string
		allowed     bool
	}{
		{internet, nil, "203.0.113.1:80", true},
		{internet, nil, "[2001:db8::1]:80", true},
		{internet, nil, "10.1.2.3:80", false},
		{internet, nil, "169.254.169.254:80", false},
		{internet, nil, "192.0.2.2:80", false},  // the host
		{internet, nil, "198.19.0.9:80", false}, // another machine
		{internet, nil, "[::ffff:10.1.2.3]:80", false},
		{[]Rule{network("8.0.0.0/5", "")}, nil, "10.1.2.3:80", false}, // a network around a range does not name it
		{[]Rule{network("10.0.0.0/8", "")}, nil, "10.1.2.3:80", true},
		{[]Rule{network("10.0.0.0/8", "")}, nil, "10.9.9.9:80", false}, // the host, in that range
		{[]Rule{network("10.9.9.9/32", "")}, nil, "10.9.9.9:80", true},
		{[]Rule{network("198.18.0.0/15", "")}, nil, "198.19.0.9:80", false},
		{[]Rule{network("198.19.0.9/32", "")}, nil, "198.19.0.9:80", false},
		{internet, []Rule{network("203.0.113.0/24", "")}, "203.0.113.1:80", false},
		{internet, []Rule{network("203.0.113.0/24", "tcp", Ports{443, 443})}, "203.0.113.1:80", true},
		{[]Rule{network("203.0.113.0/24", "tcp", Ports{8000, 8999})}, nil, "203.0.113.1:8080", true},
		{[]Rule{network("203.0.113.0/24", "tcp", Ports{8000, 8999})}, nil, "203.0.113.1:9000", false},
		{[]Rule{network("203.0.113.0/24", "udp")}, nil, "203.0.113.1:80", false},
		{nil, nil, "203.0.113.1:80", false},
	} {
		policy := Policy{Allow: c.allow, Deny: c.deny}
		if got := policy.allowsAddress(&place, netip.MustParseAddrPort(c.to), "tcp"); got != c.allowed {
			t.Errorf("%s under %+v: %v", c.to, policy, got)
		}
	}
}

func TestNames(t *testing.T) {
	policy := Policy{Allow: []Rule{named("api.example.com"), named("*.example.org")}, Deny: []Rule{{Name: "secret.example.org"}}}
	for name, allowed := range map[string]bool{
		"api.example.com": true, "x.example.org": true, "x.y.example.org": true,
		"example.org": false, "xexample.org": false, "secret.example.org": false, "evil.api.example.com": false, "": false,
	} {
		if got := policy.resolves(name); got != allowed {
			t.Errorf("%q: %v", name, got)
		}
	}
}

func TestADecisionNeedsAnAllowedNameAndItsAddress(t *testing.T) {
	f := &Filter{place: place}
	f.rules.Store(&Policy{Allow: []Rule{named("api.example.com"), named("*.example.org"), named("db.example.com", Ports{5432, 5432})}})
	told := netip.MustParseAddr("203.0.113.1")
	f.answers.add("api.example.com", told, farFuture())
	for _, c := range []struct {
		to, name string
		allowed  bool
	}{
		{"203.0.113.1:443", "api.example.com", true},
		{"203.0.113.1:443", "www.example.org", true}, // another allowed name that this address may well have
		{"203.0.113.1:443", "evil.test", false},
		{"203.0.113.1:443", "", false},
		{"203.0.113.1:5432", "db.example.com", false}, // nobody was told that it is at this address
		{"203.0.113.2:443", "api.example.com", false},
		{"10.1.2.3:443", "api.example.com", false},
	} {
		if reason := f.decide(netip.MustParseAddrPort(c.to), c.name); (reason == "") != c.allowed {
			t.Errorf("%s for %q: %q", c.to, c.name, reason)
		}
	}
}

// The library checks policies; were one not checked, its text must not become rules.
func TestRulesThatAreNoneAreRefused(t *testing.T) {
	for _, rule := range []Rule{{}, {Name: "a", Net: netip.MustParsePrefix("1.2.3.4/32")}, {Name: "a", Protocol: "tcp; flush ruleset"}} {
		policy := Policy{Allow: []Rule{rule}}
		if policy.check() == nil {
			t.Errorf("%+v", rule)
		}
	}
}

func TestEveryRulesetIsOneThatNftTakes(t *testing.T) {
	nft, err := exec.LookPath("nft")
	if err != nil {
		t.Skip("nft is not installed")
	}
	base := `table inet bandsox {
		chain passage {
		}
		chain egress {
		}
		chain services {
		}
		chain noted {
		}
		chain refuse {
		}
	}
	`
	policies := []Policy{
		{},
		{Allow: []Rule{network("0.0.0.0/0", ""), network("::/0", "")}, Deny: []Rule{{Name: "evil.test"}}},
		{Allow: []Rule{network("0.0.0.0/0", "tcp", Ports{1, 80}, Ports{443, 443}), network("10.0.0.0/8", "icmp")}, Learn: true, Limits: Limits{Connections: 10}},
		{Allow: []Rule{named("a.example"), named("b.example", Ports{22, 22}), {Name: "t.example", Protocol: "udp", Ports: []Ports{{123, 123}}}}},
	}
	for i := range policies {
		first := ruleset{&place, &policies[i], listening{5353, 8080}, 1}
		second := ruleset{&place, &policies[i], listening{5353, 8080}, 2}
		var old []string
		for group := range policies[i].groups() {
			old = append(old, setName(1, group, netip.IPv4Unspecified()), setName(1, group, netip.IPv6Unspecified()))
		}
		command := exec.Command("unshare", "--user", "--map-root-user", "--net", nft, "-f", "-")
		command.Stdin = strings.NewReader(base + first.text(nil) + second.text(old))
		if output, err := command.CombinedOutput(); err != nil {
			t.Errorf("%+v: %v: %s", policies[i], err, output)
		}
	}
}

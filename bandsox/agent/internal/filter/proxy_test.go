package filter

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"
)

// carried is a machine's connection that the proxy carries to a server as if it had been led there.
func carried(t *testing.T, f *Filter, server net.Addr) *net.TCPConn {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	machine, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c := &connection{TCPConn: accepted.(*net.TCPConn), to: server.(*net.TCPAddr).AddrPort()}
	f.proxy.mu.Lock()
	f.proxy.open[c] = struct{}{}
	f.proxy.mu.Unlock()
	go f.proxy.carry(c)
	t.Cleanup(func() { machine.Close() })
	_ = machine.SetDeadline(time.Now().Add(time.Minute))
	return machine.(*net.TCPConn)
}

// proxyFor is a filter that allows names at a server, which the machine was told under the first of them.
func proxyFor(t *testing.T, server net.Addr, names ...string) (*Filter, func() string) {
	t.Helper()
	log, written := testLog(t)
	f := &Filter{place: place, log: log}
	f.proxy = newProxy(f)
	at := server.(*net.TCPAddr).AddrPort()
	var rules []Rule
	for _, name := range names {
		rules = append(rules, named(name, Ports{at.Port(), at.Port()}))
	}
	f.rules.Store(&Policy{Allow: rules})
	f.answers.add(names[0], at.Addr(), farFuture())
	return f, written
}

func request(t *testing.T, conn net.Conn, text string) *http.Response {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body = io.NopCloser(strings.NewReader(string(body)))
	return answer
}

func wasReset(conn net.Conn) bool {
	_, err := io.ReadAll(conn)
	return errors.Is(err, syscall.ECONNRESET)
}

func TestEachRequestOfAConnectionIsForANameOfItsOwn(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Host+" "+r.RequestURI+" "+r.Header.Get("X-Forwarded-For"))
	}))
	defer server.Close()
	f, written := proxyFor(t, server.Listener.Addr(), "api.example.com", "www.example.org")
	conn := carried(t, f, server.Listener.Addr())
	for host, want := range map[string]string{"api.example.com": "api.example.com /a?b;c=d 1.2.3.4", "WWW.example.org": "WWW.example.org /a?b;c=d 1.2.3.4"} {
		answer := request(t, conn, "GET /a?b;c=d HTTP/1.1\r\nHost: "+host+"\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n")
		if body, _ := io.ReadAll(answer.Body); answer.StatusCode != 200 || string(body) != want {
			t.Errorf("%d %q", answer.StatusCode, body)
		}
	}
	answer := request(t, conn, "GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n")
	if answer.StatusCode != http.StatusForbidden {
		t.Error(answer.StatusCode)
	}
	if log := written(); strings.Count(log, `"opened"`) != 1 || !strings.Contains(log, "evil.test") {
		t.Error(log)
	}
}

// What one side takes for the end of a request and the other does not is a way to hide a second one.
func TestARequestThatTwoWouldReadDifferentlyIsRefused(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Host) }))
	defer server.Close()
	f, _ := proxyFor(t, server.Listener.Addr(), "api.example.com")
	for _, text := range []string{
		"POST / HTTP/1.1\r\nHost: api.example.com\r\nHost: evil.test\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
		"GET http://evil.test/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
		"CONNECT evil.test:443 HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
		"GET / HTTP/1.1\r\n\r\n",
	} {
		if answer := request(t, carried(t, f, server.Listener.Addr()), text); answer.StatusCode < 400 {
			t.Errorf("%q: %d", text, answer.StatusCode)
		}
	}
}

func TestTLSIsCarriedToTheServerOfItsNameOnly(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.TLS.ServerName) }))
	defer server.Close()
	f, _ := proxyFor(t, server.Listener.Addr(), "api.example.com")
	secure := tls.Client(carried(t, f, server.Listener.Addr()), &tls.Config{ServerName: "api.example.com", InsecureSkipVerify: true})
	answer := request(t, secure, "GET / HTTP/1.1\r\nHost: whatever\r\nConnection: close\r\n\r\n")
	if body, _ := io.ReadAll(answer.Body); string(body) != "api.example.com" {
		t.Errorf("%q", body)
	}
	for _, name := range []string{"evil.test", ""} {
		conn := carried(t, f, server.Listener.Addr())
		err := tls.Client(conn, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake()
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// echo is a server that speaks first.
func echo(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.WriteString(conn, "hello\n")
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	return listener
}

func TestAnyProtocolIsCarriedWithBothItsEnds(t *testing.T) {
	server := echo(t)
	f, _ := proxyFor(t, server.Addr(), "ssh.example.com")
	entries, stop := f.log.follow()
	defer stop()
	conn := carried(t, f, server.Addr())
	reader := bufio.NewReader(conn)
	if line, err := reader.ReadString('\n'); line != "hello\n" || err != nil {
		t.Fatal(line, err)
	}
	if _, err := io.WriteString(conn, "GET is no request here"); err != nil {
		t.Fatal(err)
	}
	_ = conn.CloseWrite()
	if rest, err := io.ReadAll(reader); string(rest) != "GET is no request here" || err != nil {
		t.Fatal(string(rest), err)
	}
	for line := range entries {
		if text := string(line); strings.Contains(text, `"closed"`) {
			if !strings.Contains(text, `"sent":22,"received":28`) {
				t.Error(text)
			}
			break
		}
	}
}

func TestWhatIsNotAllowedAnyMoreEnds(t *testing.T) {
	server := echo(t)
	f, _ := proxyFor(t, server.Addr(), "ssh.example.com")
	kept, cut := carried(t, f, server.Addr()), carried(t, f, echo(t).Addr())
	if !wasReset(cut) {
		t.Error("a port that no rule allows was reached")
	}
	if _, err := kept.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	f.proxy.review()
	if _, err := kept.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := kept.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	f.rules.Store(&Policy{})
	f.proxy.review()
	if !wasReset(kept) {
		t.Error("a connection goes on that the policy does not allow")
	}
}

func TestAServerThatRefusesIsRefused(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	f, _ := proxyFor(t, listener.Addr(), "gone.example.com")
	if conn := carried(t, f, listener.Addr()); !wasReset(conn) {
		t.Error("no reset")
	}
}

func TestAFloodOfConnectionsIsBounded(t *testing.T) {
	f, _ := proxyFor(t, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}, "a.example")
	f.proxy.most = 2
	for range 2 {
		f.proxy.open[&connection{to: netip.AddrPortFrom(netip.IPv4Unspecified(), 1)}] = struct{}{}
	}
	if f.proxy.admits() {
		t.Error("a third connection")
	}
	f.proxy.most = 3
	f.rules.Load().Connections = 1
	if f.proxy.admits() {
		t.Error("a second connection where one is allowed")
	}
}

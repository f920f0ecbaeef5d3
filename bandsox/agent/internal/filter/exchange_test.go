package filter

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"testing"
)

const (
	holder      = "bandsox_placeholder"
	value       = `s3cr3t/"key"+&=`
	secretName  = "api.example.com"
	otherName   = "www.example.org"
	secretBasic = "Basic dXNlcjpiYW5kc294X3BsYWNlaG9sZGVy" // user:bandsox_placeholder
)

// world is an authority that the filter trusts, and servers of the names that it has certified.
type world struct {
	t      *testing.T
	roots  string
	issuer *issuer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	authority, err := NewAuthority([]string{"example.com", "example.org", "evil.test"})
	if err != nil {
		t.Fatal(err)
	}
	made, err := newIssuer(authority)
	if err != nil {
		t.Fatal(err)
	}
	return &world{t, authority.Certificate, made}
}

func (u *world) serve(name string, handler http.HandlerFunc) net.Addr {
	leaf, err := u.issuer.leaf(name)
	if err != nil {
		u.t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = true
	server.TLS = &tls.Config{Certificates: []tls.Certificate{*leaf}}
	server.StartTLS()
	u.t.Cleanup(server.Close)
	return server.Listener.Addr()
}

// withSecret is a filter that has a secret for a name at a server, and whom its machine trusts.
func withSecret(t *testing.T, roots string, server net.Addr, secret Secret) (*Filter, *x509.CertPool) {
	t.Helper()
	f, _ := proxyFor(t, server, secretName, otherName, "evil.test")
	port := server.(*net.TCPAddr).AddrPort().Port()
	secret.Placeholder, secret.Hosts = holder, []Rule{named(secretName, Ports{port, port})}
	if secret.Value == "" {
		secret.Value = value
	}
	authority, err := NewAuthority([]string{secretName})
	if err != nil {
		t.Fatal(err)
	}
	if f.vault, err = openVault(&Vault{Authority: *authority, Roots: roots, Secrets: []Secret{secret}}); err != nil {
		t.Fatal(err)
	}
	f.proxy.web.lookInto(f.vault)
	machine := x509.NewCertPool()
	machine.AppendCertsFromPEM([]byte(authority.Certificate))
	return f, machine
}

// browser is a client in the machine, of HTTP/2 if it may be.
func browser(t *testing.T, f *Filter, server net.Addr, trusted *x509.CertPool, modern bool) *http.Client {
	t.Helper()
	transport := &http.Transport{
		DialContext:        func(context.Context, string, string) (net.Conn, error) { return carried(t, f, server), nil },
		TLSClientConfig:    &tls.Config{RootCAs: trusted},
		ForceAttemptHTTP2:  modern,
		DisableCompression: true,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// seen is what a server has got of a request.
type seen struct {
	Proto, Authorization, Cookie, Query, Body string
	Length                                    int64
}

func describe(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	_ = json.NewEncoder(w).Encode(seen{r.Proto, r.Header.Get("Authorization"), r.Header.Get("Cookie"), r.URL.RawQuery, string(body), r.ContentLength})
}

// got is what a server has got of a request. It is kept outside the machine, where answers have no values.
func got(t *testing.T, u *world, secret Secret, modern bool, request func(base string) *http.Request) (seen, string) {
	t.Helper()
	var at seen
	server := u.serve(secretName, func(w http.ResponseWriter, r *http.Request) {
		var whole bytes.Buffer
		recorder := httptest.NewRecorder()
		recorder.Body = &whole
		describe(recorder, r)
		_ = json.Unmarshal(whole.Bytes(), &at)
		_, _ = w.Write(whole.Bytes())
	})
	f, trusted := withSecret(t, u.roots, server, secret)
	answer, err := browser(t, f, server, trusted, modern).Do(request("https://" + secretName))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != 200 {
		t.Fatal(answer.StatusCode, string(body), err)
	}
	return at, string(body)
}

func newRequest(method, url, body string, headers ...string) *http.Request {
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Add(headers[i], headers[i+1])
	}
	return request
}

func TestTheValueIsPutIntoHeadersAndNowhereElse(t *testing.T) {
	u := newWorld(t)
	for _, modern := range []bool{false, true} {
		at, body := got(t, u, Secret{}, modern, func(base string) *http.Request {
			return newRequest("POST", base+"/?key="+holder, holder, "Authorization", "Bearer "+holder, "Cookie", "k="+holder)
		})
		want := seen{at.Proto, "Bearer " + value, "k=" + value, "key=" + holder, holder, int64(len(holder))}
		if at != want || (at.Proto == "HTTP/2.0") != true {
			t.Errorf("%+v", at)
		}
		if strings.Contains(body, "s3cr3t") || !strings.Contains(body, `"Authorization":"Bearer ***`) {
			t.Errorf("the machine has read %s", body)
		}
	}
}

func TestAPasswordIsFoundBehindItsEncoding(t *testing.T) {
	at, body := got(t, newWorld(t), Secret{}, true, func(base string) *http.Request {
		return newRequest("GET", base, "", "Authorization", secretBasic)
	})
	request := newRequest("GET", "/", "", "Authorization", at.Authorization)
	if user, password, ok := request.BasicAuth(); !ok || user != "user" || password != value {
		t.Error(user, password)
	}
	if strings.Contains(body, strings.TrimPrefix(at.Authorization, "Basic ")) {
		t.Error("the encoded value came back")
	}
}

func TestTheValueIsPutIntoQueryAndBodyIfThatIsAskedFor(t *testing.T) {
	u := newWorld(t)
	asked := Secret{Query: true, Body: true}
	for kind, written := range map[string]string{
		"application/json":                  `{"key":"` + inJSON(value) + `"}`,
		"application/x-www-form-urlencoded": `{"key":"` + url.QueryEscape(value) + `"}`,
		"text/plain; charset=utf-8":         `{"key":"` + value + `"}`,
	} {
		at, _ := got(t, u, asked, true, func(base string) *http.Request {
			return newRequest("POST", base+"/?a=1&key="+holder, `{"key":"`+holder+`"}`, "Content-Type", kind)
		})
		if at.Query != "a=1&key="+url.QueryEscape(value) || at.Body != written || at.Length != int64(len(written)) {
			t.Errorf("%s: %+v", kind, at)
		}
	}
	at, _ := got(t, u, asked, true, func(base string) *http.Request {
		return newRequest("POST", base, holder, "Content-Encoding", "gzip")
	})
	if at.Body != holder {
		t.Error("what is compressed was changed: ", at.Body)
	}
	long := strings.Repeat("x", maxHeldBody)
	at, _ = got(t, u, asked, false, func(base string) *http.Request { return newRequest("POST", base, long+holder+long) })
	if at.Body != long+value+long || at.Length != -1 {
		t.Error("a long body: ", len(at.Body), at.Length)
	}
}

func TestAnswersComeWithoutTheValue(t *testing.T) {
	u := newWorld(t)
	server := u.serve(secretName, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") != "identity" {
			t.Error("what is compressed cannot be looked through")
		}
		w.Header().Set("Link", "</"+value+">")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Location", "https://evil.test/?"+url.QueryEscape(value))
		w.Header().Set("Alt-Svc", `h3=":443"`)
		w.Header().Set("Trailer", "X-Last")
		w.Header().Set("Content-Length", fmt.Sprint(2*len(value)+5))
		if r.URL.Path == "/chunks" {
			w.Header().Del("Content-Length")
		}
		w.WriteHeader(http.StatusFound)
		_, _ = io.WriteString(w, "first"+value[:4])
		_ = http.NewResponseController(w).Flush()
		_, _ = io.WriteString(w, value[4:]+value)
		w.Header().Set("X-Last", value)
	})
	f, trusted := withSecret(t, u.roots, server, Secret{})
	for _, modern := range []bool{false, true} {
		client := browser(t, f, server, trusted, modern)
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		for _, path := range []string{"/", "/chunks"} {
			var hinted string
			trace := &httptrace.ClientTrace{Got1xxResponse: func(_ int, header textproto.MIMEHeader) error {
				hinted = header.Get("Link")
				return nil
			}}
			request := newRequest("GET", "https://"+secretName+path, "")
			answer, err := client.Do(request.WithContext(httptrace.WithClientTrace(context.Background(), trace)))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(answer.Body)
			answer.Body.Close()
			if err != nil || string(body) != "first"+strings.Repeat("*", 2*len(value)) {
				t.Errorf("%q %v", body, err)
			}
			if hinted != "</"+holder+">" {
				t.Error(hinted)
			}
			if h := answer.Header; h.Get("Location") != "https://evil.test/?"+holder || h.Get("Link") != "</"+holder+">" || h.Get("Alt-Svc") != "" {
				t.Error(h)
			}
			if last := answer.Trailer.Get("X-Last"); path == "/chunks" && last != holder {
				t.Errorf("the trailer is %q", last)
			}
		}
	}
}

func TestNobodyButTheHostItselfGetsTheValue(t *testing.T) {
	u := newWorld(t)
	asked := make(chan *http.Request, 10)
	note := func(w http.ResponseWriter, r *http.Request) { asked <- r }

	t.Run("a server without the name's certificate", func(t *testing.T) {
		for _, stranger := range []*world{u, newWorld(t)} { // one of the name's authority, for another name; one of another authority
			name := secretName
			if stranger == u {
				name = "evil.test"
			}
			server := stranger.serve(name, note)
			f, trusted := withSecret(t, u.roots, server, Secret{})
			answer, err := browser(t, f, server, trusted, true).Do(newRequest("GET", "https://"+secretName, "", "X-Key", holder))
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(answer.Body)
			answer.Body.Close()
			if answer.StatusCode != http.StatusBadGateway || !strings.Contains(string(body), "certificate") {
				t.Error(answer.StatusCode, string(body))
			}
		}
	})
	t.Run("another name on the same connection", func(t *testing.T) {
		server := u.serve(secretName, note)
		f, trusted := withSecret(t, u.roots, server, Secret{})
		for _, modern := range []bool{false, true} {
			request := newRequest("GET", "https://"+secretName, "", "X-Key", holder)
			request.Host = otherName
			answer, err := browser(t, f, server, trusted, modern).Do(request)
			if err != nil {
				t.Fatal(err)
			}
			answer.Body.Close()
			if answer.StatusCode != http.StatusMisdirectedRequest {
				t.Error(answer.StatusCode)
			}
		}
	})
	t.Run("without TLS", func(t *testing.T) {
		server := httptest.NewServer(http.HandlerFunc(note))
		defer server.Close()
		f, _ := withSecret(t, u.roots, server.Listener.Addr(), Secret{})
		request(t, carried(t, f, server.Listener.Addr()), "GET / HTTP/1.1\r\nHost: api.example.com\r\nX-Key: "+holder+"\r\n\r\n")
		if r := <-asked; r.Header.Get("X-Key") != holder {
			t.Error(r.Header)
		}
	})
	if len(asked) > 0 {
		t.Error("somebody was asked: ", (<-asked).Header)
	}
}

func TestAHostWithoutSecretsIsNotLookedInto(t *testing.T) {
	u := newWorld(t)
	var key string
	server := u.serve(otherName, func(_ http.ResponseWriter, r *http.Request) { key = r.Header.Get("X-Key") })
	f, _ := withSecret(t, u.roots, server, Secret{})
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM([]byte(u.roots))
	answer, err := browser(t, f, server, trusted, true).Do(newRequest("GET", "https://"+otherName, "", "X-Key", holder))
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if key != holder {
		t.Error(key)
	}
}

func TestWithoutTLSTheValueIsSentIfThatIsAskedFor(t *testing.T) {
	asked := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.Header.Get("X-Key") }))
	defer server.Close()
	f, _ := withSecret(t, newWorld(t).roots, server.Listener.Addr(), Secret{Plain: true})
	for host, want := range map[string]string{secretName: value, otherName: holder} {
		request(t, carried(t, f, server.Listener.Addr()), "GET / HTTP/1.1\r\nHost: "+host+"\r\nX-Key: "+holder+"\r\n\r\n")
		if key := <-asked; key != want {
			t.Errorf("%s: %s", host, key)
		}
	}
	f.answers = answers{}
	f.answers.add(otherName, server.Listener.Addr().(*net.TCPAddr).AddrPort().Addr(), farFuture())
	request(t, carried(t, f, server.Listener.Addr()), "GET / HTTP/1.1\r\nHost: "+secretName+"\r\nX-Key: "+holder+"\r\n\r\n")
	if key := <-asked; key != holder {
		t.Error("an address that is not the name's got the value")
	}
}

func TestWebSocketsGoThrough(t *testing.T) {
	u := newWorld(t)
	server := u.serve(secretName, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+value {
			t.Error(r.Header)
		}
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 "+value+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Key: "+value+"\r\n\r\n")
		_, _ = io.Copy(conn, buffered)
	})
	f, trusted := withSecret(t, u.roots, server, Secret{})
	conn := tls.Client(carried(t, f, server), &tls.Config{RootCAs: trusted, ServerName: secretName})
	_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: "+secretName+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nAuthorization: Bearer "+holder+"\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	answer, err := http.ReadResponse(reader, nil)
	if err != nil || answer.StatusCode != 101 || strings.Contains(answer.Status, value) || answer.Header.Get("X-Key") != holder {
		t.Fatal(answer, err)
	}
	for _, word := range []string{"hello", "again"} {
		_, _ = io.WriteString(conn, word)
		echoed := make([]byte, 5)
		if _, err := io.ReadFull(reader, echoed); err != nil || string(echoed) != word {
			t.Fatal(string(echoed), err)
		}
	}
}

func TestBodiesStreamBothWays(t *testing.T) {
	u := newWorld(t)
	server := u.serve(secretName, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(200)
		buffer := make([]byte, 16)
		for {
			_ = http.NewResponseController(w).Flush()
			n, err := r.Body.Read(buffer)
			_, _ = w.Write(buffer[:n])
			if err != nil {
				return
			}
		}
	})
	f, trusted := withSecret(t, u.roots, server, Secret{})
	from, to := io.Pipe()
	request := newRequest("POST", "https://"+secretName, "")
	request.Body, request.ContentLength = from, -1
	answer, err := browser(t, f, server, trusted, true).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	for _, word := range []string{"hello", "again"} {
		_, _ = io.WriteString(to, word)
		echoed := make([]byte, 5)
		if _, err := io.ReadFull(answer.Body, echoed); err != nil || string(echoed) != word {
			t.Fatal(string(echoed), err)
		}
	}
	_ = to.Close()
	if _, err := io.ReadAll(answer.Body); err != nil {
		t.Error(err)
	}
}

func TestASecretIsReplacedAndWithdrawnWhileTheMachineRuns(t *testing.T) {
	u := newWorld(t)
	asked := make(chan string, 1)
	server := u.serve(secretName, func(_ http.ResponseWriter, r *http.Request) { asked <- r.Header.Get("X-Key") })
	f, trusted := withSecret(t, u.roots, server, Secret{})
	client := browser(t, f, server, trusted, true)
	secret := (*f.vault.secrets.Load())[0]
	for given, want := range map[string]string{"another value": "another value", "": holder} {
		secret.Value = given
		if err := f.do(&command{Op: "secrets", Secrets: []Secret{secret}}); err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(newRequest("GET", "https://"+secretName, "", "X-Key", holder))
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if key := <-asked; key != want {
			t.Errorf("%q, not %q", key, want)
		}
	}
	secret.Hosts = []Rule{named("evil.test")}
	if err := f.do(&command{Op: "secrets", Secrets: []Secret{secret}}); err == nil {
		t.Error("a secret for a host that the authority is not for")
	}
}

func TestAnAuthorityIsForItsNamesOnly(t *testing.T) {
	authority, err := NewAuthority([]string{"api.example.com", "*.example.org"})
	if err != nil {
		t.Fatal(err)
	}
	made, err := newIssuer(authority)
	if err != nil {
		t.Fatal(err)
	}
	for name, fine := range map[string]bool{"api.example.com": true, "a.example.org": true, "example.com": false, "evil.test": false, "203.0.113.1": false} {
		if err := made.check(name); (err == nil) != fine {
			t.Errorf("%s: %v", name, err)
		}
	}
	if authority.Hash != "e0ed8bca" { // openssl x509 -hash
		t.Error(authority.Hash)
	}
}

func TestAVaultThatWouldNotWorkIsRefused(t *testing.T) {
	one, err := NewAuthority([]string{secretName})
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewAuthority([]string{secretName})
	if err != nil {
		t.Fatal(err)
	}
	fine := Secret{Placeholder: holder, Value: value, Hosts: []Rule{named(secretName)}}
	if _, err := openVault(&Vault{*one, other.Certificate, []Secret{fine}}); err != nil {
		t.Fatal(err)
	}
	for what, vault := range map[string]*Vault{
		"another key":       {Authority{one.Certificate, other.Key, ""}, one.Certificate, []Secret{fine}},
		"no authority":      {Authority{}, one.Certificate, []Secret{fine}},
		"nobody is trusted": {*one, "nothing", []Secret{fine}},
		"another host":      {*one, one.Certificate, []Secret{{Placeholder: holder, Hosts: []Rule{named("evil.test")}}}},
		"no placeholder":    {*one, one.Certificate, []Secret{{Value: value, Hosts: []Rule{named(secretName)}}}},
	} {
		if _, err := openVault(vault); err == nil {
			t.Error(what)
		}
	}
}

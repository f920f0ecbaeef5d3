package filter

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	headerPatience = 30 * time.Second
	idlePatience   = 5 * time.Minute
	maxHeader      = 256 << 10

	// maxStreams is how many requests of HTTP/2 there may be at a time on a connection of the machine's, and maxUpstream how many
	// connections they have to a server that does not speak it.
	maxStreams  = 100
	maxUpstream = 4
)

// web carries requests of HTTP, each of which is for a name of its own.
type web struct {
	proxy    *proxy
	plain    handedOver
	secure   handedOver
	upstream *httputil.ReverseProxy
}

// handedOver is a listener of connections that were accepted elsewhere.
type handedOver chan net.Conn

type connectionKey struct{}

func newWeb(p *proxy) *web {
	w := &web{proxy: p, plain: make(handedOver), secure: make(handedOver)}
	w.upstream = &httputil.ReverseProxy{
		Rewrite: func(request *httputil.ProxyRequest) {
			request.Out.URL.Scheme = "http"
			if ofRequest(request.In).isSecure() {
				request.Out.URL.Scheme = "https"
			}
			request.Out.URL.Host = request.In.Host
			request.Out.Host = request.In.Host
			request.Out.URL.RawQuery = request.In.URL.RawQuery
			for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
				if sent, there := request.In.Header[name]; there {
					request.Out.Header[name] = sent
				}
			}
			if _, sent := request.In.Header["User-Agent"]; !sent {
				request.Out.Header.Set("User-Agent", "")
			}
		},
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0),
		ErrorHandler:  w.fail,
	}
	go func() { _ = w.server().Serve(w.plain) }()
	return w
}

// lookInto has TLS end here for the names that the vault has secrets for.
func (w *web) lookInto(v *vault) {
	server := w.server()
	server.TLSConfig = &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return v.issuer.leaf(hello.Conn.(*webConn).secureFor)
		},
	}
	go func() { _ = server.ServeTLS(w.secure, "", "") }()
}

func (w *web) server() *http.Server {
	return &http.Server{
		Handler:           w,
		ReadHeaderTimeout: headerPatience,
		IdleTimeout:       idlePatience,
		MaxHeaderBytes:    maxHeader,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ErrorLog:          log.New(io.Discard, "", 0),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			if secure, is := conn.(*tls.Conn); is {
				conn = secure.NetConn()
			}
			return context.WithValue(ctx, connectionKey{}, conn)
		},
	}
}

// take carries a connection of which some bytes have been read.
func (w *web) take(c *connection, first []byte) {
	w.plain <- &webConn{connection: c, proxy: w.proxy, first: first, transport: transportTo(c, 1)}
}

// takeTLS carries a connection on which TLS for a name has begun; it ends here, and another one begins, to a server that has to prove that
// the name is its own.
func (w *web) takeTLS(c *connection, begun []byte, name string) {
	transport := transportTo(c, maxUpstream)
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: w.proxy.filter.vault.roots, ServerName: name}
	transport.TLSHandshakeTimeout = dialPatience
	transport.ForceAttemptHTTP2 = true
	w.secure <- &webConn{connection: c, proxy: w.proxy, first: begun, transport: transport, secureFor: name}
}

func transportTo(c *connection, most int) *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: dialPatience}).DialContext(ctx, "tcp", c.to.String())
		},
		DisableCompression:     true,
		MaxConnsPerHost:        most,
		MaxResponseHeaderBytes: maxHeader,
		IdleConnTimeout:        idlePatience,
	}
}

// fail ends a request that came to nothing: where the machine's TLS ends here it is told why, else it sees what the server's side does, or would.
func (w *web) fail(answer http.ResponseWriter, request *http.Request, failure error) {
	conn := ofRequest(request)
	if !conn.isSecure() {
		_ = conn.SetLinger(0)
		panic(http.ErrAbortHandler)
	}
	reason := "the server cannot be reached"
	var untrusted *tls.CertificateVerificationError
	if errors.As(failure, &untrusted) {
		reason = "the server's certificate is not one that the host trusts for this name"
		w.proxy.filter.log.refused(Entry{
			Protocol: "tcp", Name: conn.secureFor, Address: conn.to.Addr(), Port: conn.to.Port(), Reason: reason,
		})
	}
	http.Error(answer, reason, http.StatusBadGateway)
}

func ofRequest(request *http.Request) *webConn {
	return request.Context().Value(connectionKey{}).(*webConn)
}

// ServeHTTP carries one request, if its name is allowed.
func (w *web) ServeHTTP(answer http.ResponseWriter, request *http.Request) {
	conn := ofRequest(request)
	if request.Method == http.MethodConnect {
		http.Error(answer, "this is no proxy", http.StatusMethodNotAllowed)
		return
	}
	name := request.Host
	if host, _, err := net.SplitHostPort(name); err == nil {
		name = host
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if conn.isSecure() && name != conn.secureFor {
		http.Error(answer, "this connection is for another name", http.StatusMisdirectedRequest)
		return
	}
	if reason := w.proxy.admit(conn.connection, name); reason != "" {
		w.proxy.filter.log.refused(Entry{Protocol: "tcp", Name: name, Address: conn.to.Addr(), Port: conn.to.Port(), Reason: reason})
		answer.Header().Set("Connection", "close")
		http.Error(answer, "the network policy of this machine refuses it: "+reason, http.StatusForbidden)
		return
	}
	w.proxy.wentOut(conn.connection)
	carried := *w.upstream
	carried.Transport = &exchange{conn.transport, w.secretsFor(conn, name)}
	carried.ServeHTTP(answer, request)
}

// secretsFor is what a request may carry. A name is believed that a server has to prove (TLS), or that the machine was told this address for.
func (w *web) secretsFor(conn *webConn, name string) []Secret {
	f := w.proxy.filter
	if f.vault == nil || !conn.isSecure() && !slices.Contains(f.answers.names(conn.to.Addr()), name) {
		return nil
	}
	return f.vault.of(name, conn.to.Port(), conn.isSecure())
}

// webConn is a connection as the server of HTTP has it.
type webConn struct {
	*connection
	proxy     *proxy
	first     []byte
	transport *http.Transport
	secureFor string // the name that TLS is for, if it ends here
	once      sync.Once
}

func (c *webConn) isSecure() bool { return c.secureFor != "" }

func (c *webConn) Read(buffer []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(buffer, c.first)
		c.first = c.first[n:]
		c.read.Add(int64(n))
		return n, nil
	}
	n, err := c.TCPConn.Read(buffer)
	c.read.Add(int64(n))
	return n, err
}

func (c *webConn) Write(buffer []byte) (int, error) {
	n, err := c.TCPConn.Write(buffer)
	c.written.Add(int64(n))
	return n, err
}

// ReadFrom hides the TCP connection's, which would not count.
func (c *webConn) ReadFrom(from io.Reader) (int64, error) {
	n, err := c.TCPConn.ReadFrom(from)
	c.written.Add(n)
	return n, err
}

func (c *webConn) Close() error {
	c.once.Do(func() {
		c.transport.CloseIdleConnections()
		c.proxy.forget(c.connection)
	})
	return nil
}

// Accept waits for the next connection.
func (h handedOver) Accept() (net.Conn, error) { return <-h, nil }

// Close does nothing: the filter ends as a whole.
func (handedOver) Close() error { return nil }

// Addr is of no use.
func (handedOver) Addr() net.Addr { return &net.TCPAddr{} }

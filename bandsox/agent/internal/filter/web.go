package filter

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"time"
)

const (
	headerPatience = 30 * time.Second
	idlePatience   = 5 * time.Minute
	maxHeader      = 256 << 10
)

// web carries requests of HTTP, each of which is for a name of its own.
type web struct {
	proxy    *proxy
	incoming chan net.Conn
	upstream *httputil.ReverseProxy
}

type connectionKey struct{}

func newWeb(p *proxy) *web {
	w := &web{proxy: p, incoming: make(chan net.Conn)}
	w.upstream = &httputil.ReverseProxy{
		Rewrite: func(request *httputil.ProxyRequest) {
			request.Out.URL.Scheme = "http"
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
		ErrorHandler: func(_ http.ResponseWriter, request *http.Request, _ error) {
			_ = request.Context().Value(connectionKey{}).(*webConn).SetLinger(0) // as the other side does, or would
			panic(http.ErrAbortHandler)
		},
	}
	server := &http.Server{
		Handler:           w,
		ReadHeaderTimeout: headerPatience,
		IdleTimeout:       idlePatience,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(io.Discard, "", 0),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connectionKey{}, conn)
		},
	}
	go func() { _ = server.Serve(w) }()
	return w
}

// take carries a connection of which some bytes have been read.
func (w *web) take(c *connection, first []byte) {
	taken := &webConn{connection: c, proxy: w.proxy, first: first}
	taken.transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: dialPatience}).DialContext(ctx, "tcp", c.to.String())
		},
		DisableCompression: true,
		MaxConnsPerHost:    1,
		IdleConnTimeout:    idlePatience,
	}
	w.incoming <- taken
}

// ServeHTTP carries one request, if its name is allowed.
func (w *web) ServeHTTP(answer http.ResponseWriter, request *http.Request) {
	conn := request.Context().Value(connectionKey{}).(*webConn)
	if request.Method == http.MethodConnect {
		http.Error(answer, "this is no proxy", http.StatusMethodNotAllowed)
		return
	}
	name := request.Host
	if host, _, err := net.SplitHostPort(name); err == nil {
		name = host
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if reason := w.proxy.admit(conn.connection, name); reason != "" {
		w.proxy.filter.log.refused(Entry{Protocol: "tcp", Name: name, Address: conn.to.Addr(), Port: conn.to.Port(), Reason: reason})
		answer.Header().Set("Connection", "close")
		http.Error(answer, "the network policy of this machine refuses it: "+reason, http.StatusForbidden)
		return
	}
	w.proxy.wentOut(conn.connection)
	carried := *w.upstream
	carried.Transport = conn.transport
	carried.ServeHTTP(answer, request)
}

// webConn is a connection as the server of HTTP has it.
type webConn struct {
	*connection
	proxy     *proxy
	first     []byte
	transport *http.Transport
	once      sync.Once
}

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

// Accept, Close and Addr make it a listener of connections that were accepted elsewhere.
func (w *web) Accept() (net.Conn, error) { return <-w.incoming, nil }

// Close does nothing: the filter ends as a whole.
func (*web) Close() error { return nil }

// Addr is of no use.
func (*web) Addr() net.Addr { return &net.TCPAddr{} }

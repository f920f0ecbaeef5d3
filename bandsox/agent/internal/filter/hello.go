package filter

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"time"
)

// maxHello is how long a ClientHello may be: some records of TLS.
const maxHello = 64 << 10

var errSeen = errors.New("enough was seen")

// readHello reads a ClientHello (RFC 8446, 4.1.2) and returns the name in it, and all that was read, to be passed on. It is no answer to the
// other side, which does not learn that somebody looked.
func readHello(from io.Reader) (name string, read []byte, err error) {
	watched := &recorder{from: io.LimitReader(from, maxHello)}
	server := tls.Server(watched, &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		name = strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
		return nil, errSeen
	}})
	if err = server.Handshake(); errors.Is(err, errSeen) {
		err = nil
	}
	return name, watched.read.Bytes(), err
}

// recorder is a connection that is only read from.
type recorder struct {
	from io.Reader
	read bytes.Buffer
}

func (r *recorder) Read(buffer []byte) (int, error) {
	n, err := r.from.Read(buffer)
	r.read.Write(buffer[:n])
	return n, err
}

func (*recorder) Write(buffer []byte) (int, error) { return len(buffer), nil }
func (*recorder) Close() error                     { return nil }
func (*recorder) LocalAddr() net.Addr              { return nil }
func (*recorder) RemoteAddr() net.Addr             { return nil }
func (*recorder) SetDeadline(time.Time) error      { return nil }
func (*recorder) SetReadDeadline(time.Time) error  { return nil }
func (*recorder) SetWriteDeadline(time.Time) error { return nil }

func looksLikeTLS(first []byte) bool {
	return len(first) > 0 && first[0] == 22 // a record of the handshake
}

// looksLikeHTTP tells whether this is the beginning of a request: a method, which is of capital letters, and a space.
func looksLikeHTTP(first []byte) bool {
	for i, b := range first {
		if b == ' ' {
			return i > 2
		}
		if (b < 'A' || b > 'Z') && b != '-' {
			return false
		}
	}
	return len(first) > 2
}

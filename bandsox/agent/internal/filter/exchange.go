package filter

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
)

// maxHeldBody is how long a request's body may be whose new length is found out before it is sent; longer ones go out in chunks.
const maxHeldBody = 1 << 20

// exchange carries requests for one name: it puts the values of secrets in, and takes them out of what comes back.
type exchange struct {
	inner   http.RoundTripper
	secrets []Secret
}

// RoundTrip carries one request (http.RoundTripper), whose headers are its own to change.
func (e *exchange) RoundTrip(request *http.Request) (*http.Response, error) {
	if len(e.secrets) == 0 {
		return e.inner.RoundTrip(request)
	}
	put := e.putIntoHead(request)
	if err := e.putIntoBody(request); err != nil {
		return nil, err
	}
	request.Header.Set("Accept-Encoding", "identity") // what is compressed could not be looked through
	var back, masks []swap
	for _, s := range put {
		back, masks = append(back, s.reversed()), append(masks, s.reversed().masked())
	}
	trace := &httptrace.ClientTrace{Got1xxResponse: func(_ int, header textproto.MIMEHeader) error {
		clean(http.Header(header), back)
		return nil
	}}
	answer, err := e.inner.RoundTrip(request.WithContext(httptrace.WithClientTrace(request.Context(), trace)))
	if err != nil {
		return nil, err
	}
	clean(answer.Header, back)
	answer.Header.Del("Alt-Svc") // the other ways to the server (RFC 7838) are not looked into
	switch {
	case answer.StatusCode == http.StatusSwitchingProtocols: // its body is a connection
		answer.Status = "101 " + http.StatusText(http.StatusSwitchingProtocols)
	case answer.Header.Get("Content-Encoding") == "" || answer.Header.Get("Content-Encoding") == "identity":
		answer.Body = newSieve(answer.Body, masks, func() { clean(answer.Trailer, back) })
	}
	return answer, nil
}

// putIntoHead puts values into the headers and, where that is asked for, into the query. It returns what stands for what in all of the request,
// each secret's value first.
func (e *exchange) putIntoHead(request *http.Request) []swap {
	var put []swap
	for _, secret := range e.secrets {
		for _, written := range spellings(secret.Value) {
			put = append(put, swap{[]byte(secret.Placeholder), []byte(written)})
		}
		if secret.Query {
			request.URL.RawQuery = strings.ReplaceAll(request.URL.RawQuery, secret.Placeholder, url.QueryEscape(secret.Value))
		}
	}
	values := e.values(plainly)
	for _, header := range request.Header {
		for i, value := range header {
			if basic, changed := basicWith(value, values); changed {
				put = append(put, swap{[]byte(credentials(value)), []byte(credentials(basic))})
				header[i] = basic
			} else {
				header[i] = swapped(value, values)
			}
		}
	}
	return put
}

// values is what takes the placeholders' places, as it has to be written there.
func (e *exchange) values(written func(string) string) []swap {
	var found []swap
	for _, secret := range e.secrets {
		found = append(found, swap{[]byte(secret.Placeholder), []byte(written(secret.Value))})
	}
	return found
}

// basicWith puts values into a name and password (RFC 7617), and tells whether there was a place for one.
func basicWith(value string, values []swap) (string, bool) {
	scheme, _, _ := strings.Cut(value, " ")
	if !strings.EqualFold(scheme, "basic") {
		return value, false
	}
	plain, err := base64.StdEncoding.DecodeString(credentials(value))
	if err != nil {
		return value, false
	}
	with := swapped(string(plain), values)
	if with == string(plain) {
		return value, false
	}
	return scheme + " " + base64.StdEncoding.EncodeToString([]byte(with)), true
}

func credentials(value string) string {
	_, found, _ := strings.Cut(value, " ")
	return strings.TrimSpace(found)
}

// putIntoBody puts values into a body, where that is asked for, as its type wants them written. What is compressed stays as it is.
func (e *exchange) putIntoBody(request *http.Request) error {
	asked := &exchange{}
	for _, secret := range e.secrets {
		if secret.Body {
			asked.secrets = append(asked.secrets, secret)
		}
	}
	if len(asked.secrets) == 0 || request.Body == nil || request.Body == http.NoBody || request.Header.Get("Content-Encoding") != "" {
		return nil
	}
	through := newSieve(request.Body, asked.values(writtenIn(request.Header.Get("Content-Type"))), nil)
	if request.ContentLength < 0 || request.ContentLength > maxHeldBody {
		request.Body, request.ContentLength = through, -1
		request.Header.Del("Content-Length")
		return nil
	}
	body, err := io.ReadAll(through)
	if err != nil {
		return err
	}
	_ = through.Close()
	request.Body, request.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	request.Header.Del("Content-Length")
	return nil
}

func writtenIn(contentType string) func(string) string {
	kind, _, _ := mime.ParseMediaType(contentType)
	switch {
	case kind == "application/x-www-form-urlencoded":
		return url.QueryEscape
	case kind == "application/json" || strings.HasSuffix(kind, "+json"):
		return inJSON
	}
	return plainly
}

func plainly(value string) string { return value }

func inJSON(value string) string {
	quoted, err := json.Marshal(value)
	if err != nil {
		return value
	}
	return string(quoted[1 : len(quoted)-1])
}

// spellings is how a value may come back.
func spellings(value string) []string {
	found := []string{value}
	for _, written := range []func(string) string{url.QueryEscape, url.PathEscape, inJSON} {
		if text := written(value); !slices.Contains(found, text) {
			found = append(found, text)
		}
	}
	return found
}

// clean takes values out of headers.
func clean(header http.Header, swaps []swap) {
	for _, values := range header {
		for i, value := range values {
			values[i] = swapped(value, swaps)
		}
	}
}

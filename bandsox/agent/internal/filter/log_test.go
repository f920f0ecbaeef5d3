package filter

import (
	"crypto/tls"
	"net"
	"os"
	"strings"
	"testing"
)

func TestTheLogKeepsTheNewestInTwoFilesOfBoundedSize(t *testing.T) {
	log, written := testLog(t)
	long := strings.Repeat("x", 1000)
	for range 3 * logLimit / 1000 {
		log.refused(Entry{Protocol: "dns", Name: long})
	}
	last := log.opens(Entry{Protocol: "tcp", Name: "last.example"})
	log.closes(last, 5, 7)
	for _, file := range log.files {
		if status, err := file.Stat(); err != nil || status.Size() > logLimit {
			t.Error(status.Size(), err)
		}
	}
	if text := written(); strings.Count(text, "last.example") != 2 || len(text) < logLimit {
		t.Error(len(text))
	}
	again := NewLog([2]*os.File{log.files[0], log.files[1]})
	if again.sizes != log.sizes || again.current != log.current {
		t.Error(again.sizes, log.sizes)
	}
}

func TestAFollowerWhoIsTooSlowIsLeftBehind(t *testing.T) {
	log, _ := testLog(t)
	slow, stop := log.follow()
	for range followerQueue + 1 {
		log.refused(Entry{Protocol: "dns"})
	}
	count := 0
	for range slow {
		count++
	}
	if count != followerQueue || len(log.followers) != 0 {
		t.Error(count)
	}
	stop()
}

func TestTheNameOfAHelloIsReadAndNothingOfItLost(t *testing.T) {
	client, server := net.Pipe()
	go func() { _ = tls.Client(client, &tls.Config{ServerName: "api.example.com"}).Handshake() }()
	name, read, err := readHello(server)
	if name != "api.example.com" || err != nil || len(read) < 100 || !looksLikeTLS(read) {
		t.Error(name, err, len(read))
	}
	client.Close()
	if name, read, err := readHello(strings.NewReader("GET / HTTP/1.1\r\n\r\n")); name != "" || err == nil || !strings.HasPrefix(string(read), "GET") {
		t.Error(name, err, string(read))
	}
}

func TestWhatARequestLooksLike(t *testing.T) {
	for text, is := range map[string]bool{"GET / HTTP": true, "M-SEARCH * H": true, "SSH-2.0-": false, "\x16\x03\x01": false, "get /": false, "": false, "A ": false} {
		if looksLikeHTTP([]byte(text)) != is {
			t.Errorf("%q", text)
		}
	}
}

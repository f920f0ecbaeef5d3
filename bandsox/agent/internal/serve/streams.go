package serve

import (
	"context"
	"time"

	"bandsox.dev/agent/internal/mux"
	"bandsox.dev/agent/internal/tcp"
	"bandsox.dev/agent/internal/wire"
)

// connectTime is how long a connection within the guest may take to come about.
const connectTime = 10 * time.Second

// streams carries connections to ports of the guest until the host has had enough, which is its success.
func streams(k *call) (any, error) {
	defer k.streams.Close()
	if err := k.event(wire.ReadyEvent{Kind: "ready"}); err != nil {
		return nil, err
	}
	close(k.begun)
	<-k.Done()
	if cause := context.Cause(k); cause != errCancelled {
		return nil, cause
	}
	return wire.Done{}, nil
}

// serveStream connects one stream to where the host wants it.
func (k *call) serveStream(s *mux.Stream) {
	select {
	case <-k.begun: // an OPEN may come with the request
	case <-k.Done():
	}
	ctx, cancel := context.WithTimeout(k, connectTime)
	s.OnDeath(cancel)
	sock, err := tcp.Dial(ctx, s.Target.Host, s.Target.Port)
	cancel()
	if err != nil {
		s.Refuse(wire.AsFailure(err))
		return
	}
	if s.Accept() != nil {
		s.Reset()
	}
	mux.Carry(s, sock)
}

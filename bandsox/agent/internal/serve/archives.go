package serve

import (
	"io"

	"bandsox.dev/agent/internal/archive"
	"bandsox.dev/agent/internal/wire"
)

func tarOut(k *call, r *wire.FileRequest) (any, error) {
	base := archive.BaseName(r.Path)
	if r.Base != nil {
		base = *r.Base
	}
	return k.sendArchive(func(w io.Writer) (*wire.ArchiveResult, error) {
		return archive.Create(r.Path, base, r.Exclude, w)
	})
}

func tarIn(k *call, r *wire.FileRequest) (any, error) {
	options := archive.Options{
		Whiteouts: r.Whiteouts, KeepOwner: r.PreserveOwner == nil || *r.PreserveOwner, Context: k,
	}
	if r.UID != nil || r.GID != nil {
		options.KeepOwner = false
	}
	if r.UID != nil {
		options.UID = *r.UID
	}
	if r.GID != nil {
		options.GID = *r.GID
	}
	return archive.Extract(r.Path, k.receiveData(), options)
}

// mountPoints of the running machine are in its writable layer when the image had none.
var mountPoints = map[string]bool{"dev": true, "proc": true, "sys": true, "run": true}

// layer leaves out what the machine, not its user, has put into the writable layer.
func layer(k *call) (any, error) {
	server := k.conn.server
	if server.Layer == nil {
		return nil, wire.Fail(wire.CodeUnsupported, "this machine has no writable layer")
	}
	skip := func(below string) bool {
		return mountPoints[below] || server.Machine.Wrote("/"+below)
	}
	return k.sendArchive(func(w io.Writer) (*wire.ArchiveResult, error) {
		return archive.Layer(int(server.Layer.Fd()), skip, w)
	})
}

func (k *call) sendArchive(produce func(io.Writer) (*wire.ArchiveResult, error)) (any, error) {
	var result *wire.ArchiveResult
	err := k.sendData(func(w io.Writer) (err error) {
		result, err = produce(w)
		return err
	})
	return result, err
}

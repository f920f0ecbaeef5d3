package serve

import (
	"context"
	"io"
	"runtime/debug"

	"bandsox.dev/agent/internal/files"
	"bandsox.dev/agent/internal/machine"
	"bandsox.dev/agent/internal/metrics"
	"bandsox.dev/agent/internal/network"
	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

type inputKind int

const (
	noInput     inputKind = iota
	bulkInput             // bounded by the transport's back-pressure
	windowInput           // bounded by WINDOW
	recordInput           // records of streams, bounded by their credits
)

// operation is an entry of docs/protocol.md's tables.
type operation struct {
	run    func(*call) (any, error)
	input  inputKind
	prompt bool // answers without waiting for anything, so that WELCOME can go with the answer

	watches bool // sees to it that the connection is read when it must be (letRead)

	// instant operations touch nothing that could block, not even a file, and so are run by the
	// connection's reader itself.
	instant bool

	early bool // can be asked for before the machine is whole
}

var operations map[string]operation

func init() {
	operations = map[string]operation{
		"ping":     {run: ping, prompt: true, instant: true, early: true},
		"info":     {run: info, prompt: true, instant: true},
		"prepare":  {run: prepare, prompt: true, early: true},
		"setup":    {run: setup, prompt: true, early: true},
		"metrics":  {run: measure, prompt: true},
		"sync":     {run: syncAll},
		"freeze":   {run: freeze, prompt: true},
		"thaw":     {run: thaw, prompt: true},
		"renew":    {run: renew},
		"shutdown": {run: shutdown, prompt: true},

		"exec":     {run: exec, input: windowInput, prompt: true, watches: true},
		"attach":   {run: attach, input: windowInput},
		"input":    {run: input, input: windowInput},
		"signal":   {run: signal, prompt: true, instant: true},
		"resize":   {run: resize, prompt: true, instant: true},
		"sessions": {run: sessions, prompt: true, instant: true},
		"forget":   {run: forget, prompt: true, instant: true},

		"streams": {run: streams, input: recordInput, prompt: true},

		"stat":    {run: fileOp(stat), prompt: true},
		"list":    {run: fileOp(list), prompt: true},
		"read":    {run: fileOp(read), prompt: true},
		"lines":   {run: fileOp(lines)},
		"write":   {run: fileOp(write), input: bulkInput},
		"mkdir":   {run: fileOp(mkdir), prompt: true},
		"remove":  {run: fileOp(remove)},
		"rename":  {run: fileOp(rename), prompt: true},
		"chmod":   {run: fileOp(chmod)},
		"chown":   {run: fileOp(chown)},
		"symlink": {run: fileOp(symlink), prompt: true},
		"watch":   {run: fileOp(watch)},
		"tar":     {run: fileOp(tarOut)},
		"untar":   {run: fileOp(tarIn), input: bulkInput},
		"layer":   {run: layer},
		"compare": {run: compareStates},
	}
}

// request is what an operation was asked.
func request[T any](k *call) (*T, error) {
	r := new(T)
	return r, k.decode(r)
}

func done(err error) (any, error) { return wire.Done{}, err }

func ping(*call) (any, error) { return wire.Done{}, nil }

func info(k *call) (any, error) {
	result, err := machine.Info()
	if err != nil {
		return nil, err
	}
	s := k.conn.server
	result.Agent, result.Transport, result.Capabilities = s.Version, s.Transport, s.Capabilities
	result.BootID = s.BootID[:]
	return result, nil
}

// prepare makes ready to be saved, for others to go on from, a machine that nobody has set up.
func prepare(k *call) (any, error) {
	s := k.conn.server
	if s.whole() {
		return nil, wire.Fail(wire.CodeInvalid, "the machine has been set up")
	}
	if err := s.Waits(); err != nil {
		return nil, wire.Fail(wire.CodeUnsupported, "%v", err)
	}
	if err := network.Settle(); err != nil {
		return nil, wire.AsFailure(err)
	}
	debug.FreeOSMemory() // so that none of those that go on collects what this one has left behind
	return wire.Done{}, nil
}

// setup makes the machine whole, if it is not, and gives it what the host says. Entropy and the time come first: a machine that goes on
// from one that was saved has the random numbers and the clock of all the others.
func setup(k *call) (any, error) {
	r, err := request[wire.SetupRequest](k)
	if err != nil {
		return nil, err
	}
	if r.Token != nil && len(r.Token) != 32 {
		return nil, wire.Fail(wire.CodeInvalid, "a token of %d bytes", len(r.Token))
	}
	if len(r.Entropy) > 0 {
		if err := machine.AddEntropy(r.Entropy); err != nil {
			return nil, err
		}
	}
	if r.AskTime {
		step, _, err := k.askTheTime()
		if err != nil {
			return nil, err
		}
		if err := machine.StepClock(step); err != nil {
			return nil, err
		}
	}
	k.conn.server.makeWhole()
	if err := k.conn.server.Machine.Setup(r); err != nil {
		return nil, err
	}
	if r.Token != nil {
		token := [32]byte(r.Token)
		k.conn.server.token.Store(&token)
	}
	return wire.Done{}, nil
}

func measure(k *call) (any, error) {
	r, err := request[wire.MetricsRequest](k)
	if err != nil {
		return nil, err
	}
	return metrics.Measure(r.Processes)
}

func syncAll(*call) (any, error) {
	unix.Sync()
	return wire.Done{}, nil
}

// shutdown answers first; the machine goes down when that was sent.
func shutdown(k *call) (any, error) {
	r, err := request[wire.ShutdownRequest](k)
	if err == nil {
		k.after = func() {
			if freezer := k.conn.server.Freezer; freezer != nil {
				freezer.Thaw() // so that the programs hear of it
			}
			k.conn.server.Shutdown(*r)
		}
	}
	return wire.Done{}, err
}

// fileOp wraps an operation on a path.
func fileOp(run func(*call, *wire.FileRequest) (any, error)) func(*call) (any, error) {
	return func(k *call) (any, error) {
		r, err := request[wire.FileRequest](k)
		if err == nil {
			err = files.CheckPath(r.Path)
		}
		if err != nil {
			return nil, err
		}
		return run(k, r)
	}
}

func followed(r *wire.FileRequest) bool { return r.Follow == nil || *r.Follow }

func stat(_ *call, r *wire.FileRequest) (any, error) { return files.Stat(r.Path, followed(r)) }

func list(k *call, r *wire.FileRequest) (any, error) {
	return done(files.List(r.Path, func(part []wire.FileStat) error {
		return k.event(wire.EntriesEvent{Entries: part})
	}))
}

func read(k *call, r *wire.FileRequest) (any, error) {
	var result *wire.ReadResult
	err := k.sendData(func(w io.Writer) (err error) {
		result, err = files.Read(r, w)
		return err
	})
	return result, err
}

func lines(k *call, r *wire.FileRequest) (any, error) {
	var result *wire.LinesResult
	err := k.sendData(func(w io.Writer) (err error) {
		result, err = files.Lines(r, w)
		return err
	})
	return result, err
}

func write(k *call, r *wire.FileRequest) (any, error) { return files.Write(r, k.receiveData()) }
func mkdir(_ *call, r *wire.FileRequest) (any, error) { return done(files.Mkdir(r)) }
func chmod(_ *call, r *wire.FileRequest) (any, error) { return done(files.Chmod(r)) }
func chown(_ *call, r *wire.FileRequest) (any, error) { return done(files.Chown(r)) }

func remove(_ *call, r *wire.FileRequest) (any, error) {
	return done(files.Remove(r.Path, r.Recursive))
}

func rename(_ *call, r *wire.FileRequest) (any, error) { return done(files.Rename(r.Path, r.To)) }

func symlink(_ *call, r *wire.FileRequest) (any, error) {
	return done(files.Symlink(r.Path, r.Target))
}

// watch only ends by CONTROL cancel, which is its success, or by the connection.
func watch(k *call, r *wire.FileRequest) (any, error) {
	err := files.Watch(k, r.Path, r.Recursive, func(change wire.ChangeEvent) error {
		return k.event(change)
	})
	if context.Cause(k) == errCancelled {
		return wire.Done{}, nil
	}
	return nil, err
}

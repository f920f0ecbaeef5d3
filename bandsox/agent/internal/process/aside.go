package process

import (
	"context"
	"time"

	"bandsox.dev/agent/internal/wire"
)

// mostAsideOutput is what is kept of what a program writes that runs aside.
const mostAsideOutput = 16 << 10

// Ran is how a program has ended that ran aside.
type Ran struct {
	Exit      Exit
	Output    []byte // stdout and stderr, their beginning
	Truncated bool
}

// RunAside runs a program of the machine's own as root to its end, also while nothing else may be started. It is in a cgroup
// of its own kind, and what it leaves running is killed.
func (t *Table) RunAside(ctx context.Context, groups *Groups, program string, env map[string]string, limit time.Duration) (*Ran, error) {
	request := &wire.ExecRequest{
		Argv: []string{program}, User: "0:0", Cwd: "/", MergeStderr: true, TimeoutMS: max(1, limit.Milliseconds()),
	}
	c, err := resolve(request, Defaults{Env: env})
	if err != nil {
		return nil, err
	}
	p := &Process{
		table: t, groups: groups, Argv: c.argv, Started: time.Now(),
		outputs: [2]output{noOutput, noOutput}, exitFD: -1, wakeFD: -1,
	}
	if err := t.launch(p, c, request); err != nil {
		return nil, err
	}
	defer p.Close()
	stop := context.AfterFunc(ctx, p.Kill)
	defer stop()
	ran := &Ran{}
	ran.Exit = p.Follow(&beginning{ran: ran}, nil)
	if p.group != nil {
		p.group.kill()
	}
	return ran, ctx.Err()
}

// beginning is a sink that keeps the beginning.
type beginning struct {
	ran   *Ran
	space [4 << 10]byte
}

func (b *beginning) Space(int) []byte { return b.space[:] }

func (b *beginning) Took(_, n int) error {
	room := mostAsideOutput - len(b.ran.Output)
	b.ran.Output = append(b.ran.Output, b.space[:min(n, room)]...)
	b.ran.Truncated = b.ran.Truncated || n > room
	return nil
}

package wire

// Done is the RESULT of an operation that has nothing to tell.
type Done struct{}

// End is the end of DATA, in both directions; both fields may be absent.
type End struct {
	Size  *uint64 `msgpack:"size,omitempty"`
	XXH64 *uint64 `msgpack:"xxh64,omitempty"`
	Close bool    `msgpack:"close,omitempty"`
}

// ControlMessage is the payload of a CONTROL.
type ControlMessage struct {
	Kind   string  `msgpack:"kind"`
	Signal int     `msgpack:"signal"`
	Cols   int     `msgpack:"cols"`
	Rows   int     `msgpack:"rows"`
	Time   float64 `msgpack:"time"`
}

// Winsize is a terminal's size in characters.
type Winsize struct {
	Cols int `msgpack:"cols"`
	Rows int `msgpack:"rows"`
}

// ExecRequest asks for a process.
type ExecRequest struct {
	Argv        []string          `msgpack:"argv"`
	Shell       *string           `msgpack:"shell"`
	Env         map[string]string `msgpack:"env"`
	ClearEnv    bool              `msgpack:"clear_env"`
	Cwd         string            `msgpack:"cwd"`
	User        string            `msgpack:"user"`
	Stdin       bool              `msgpack:"stdin"`
	TTY         *Winsize          `msgpack:"tty"`
	TimeoutMS   int64             `msgpack:"timeout_ms"`
	Detached    bool              `msgpack:"detached"`
	Session     string            `msgpack:"session"`
	MergeStderr bool              `msgpack:"merge_stderr"`
	Terse       bool              `msgpack:"terse"`
}

// StartedEvent is the first answer to an attached exec.
type StartedEvent struct {
	Kind string `msgpack:"kind"`
	Pid  int    `msgpack:"pid"`
}

// ExitResult ends an attached exec or an attach.
type ExitResult struct {
	ExitCode int   `msgpack:"exit_code"`
	Signal   *int  `msgpack:"signal,omitempty"`
	TimedOut bool  `msgpack:"timed_out"`
	CPUMS    int64 `msgpack:"cpu_ms"`
	MaxRSS   int64 `msgpack:"max_rss"`
}

// DetachedResult answers a detached exec.
type DetachedResult struct {
	Session string `msgpack:"session"`
	Pid     int    `msgpack:"pid"`
}

// SessionRequest is shared by attach, input, signal, resize and forget.
type SessionRequest struct {
	Session string  `msgpack:"session"`
	Stdout  *uint64 `msgpack:"stdout"`
	Stderr  *uint64 `msgpack:"stderr"`
	Input   *bool   `msgpack:"input"`
	Signal  int     `msgpack:"signal"`
	Group   *bool   `msgpack:"group"`
	Cols    int     `msgpack:"cols"`
	Rows    int     `msgpack:"rows"`
}

// AttachedEvent is the first answer to an attach.
type AttachedEvent struct {
	Kind   string `msgpack:"kind"`
	Pid    int    `msgpack:"pid"`
	Stdout uint64 `msgpack:"stdout"`
	Stderr uint64 `msgpack:"stderr"`
}

// InputResult answers input.
type InputResult struct {
	Written uint64 `msgpack:"written"`
}

// SessionEntry is one session in the answer to sessions.
type SessionEntry struct {
	Session  string   `msgpack:"session"`
	Pid      int      `msgpack:"pid"`
	Argv     [][]byte `msgpack:"argv"`
	TTY      bool     `msgpack:"tty"`
	Started  float64  `msgpack:"started"`
	Running  bool     `msgpack:"running"`
	ExitCode *int     `msgpack:"exit_code,omitempty"`
	Attached int      `msgpack:"attached"`
}

// SessionsResult answers sessions.
type SessionsResult struct {
	Sessions []SessionEntry `msgpack:"sessions"`
}

// FileRequest is shared by all file operations; each reads the fields it knows.
type FileRequest struct {
	Path          string   `msgpack:"path"`
	To            string   `msgpack:"to"`
	Target        string   `msgpack:"target"`
	Follow        *bool    `msgpack:"follow"`
	Recursive     bool     `msgpack:"recursive"`
	Offset        *int64   `msgpack:"offset"`
	Length        *int64   `msgpack:"length"`
	Limit         int64    `msgpack:"limit"`
	MaxBytes      *int64   `msgpack:"max_bytes"`
	Mode          *uint32  `msgpack:"mode"`
	UID           *int     `msgpack:"uid"`
	GID           *int     `msgpack:"gid"`
	Append        bool     `msgpack:"append"`
	Parents       bool     `msgpack:"parents"`
	Exclusive     bool     `msgpack:"exclusive"`
	Base          *string  `msgpack:"base"`
	Exclude       []string `msgpack:"exclude"`
	Whiteouts     bool     `msgpack:"whiteouts"`
	PreserveOwner *bool    `msgpack:"preserve_owner"`
}

// FileStat describes a file.
type FileStat struct {
	Name   []byte  `msgpack:"name,omitempty"`
	Type   string  `msgpack:"type"`
	Size   int64   `msgpack:"size"`
	Mode   uint32  `msgpack:"mode"`
	UID    uint32  `msgpack:"uid"`
	GID    uint32  `msgpack:"gid"`
	MTime  float64 `msgpack:"mtime"`
	Nlink  uint64  `msgpack:"nlink"`
	Ino    uint64  `msgpack:"ino"`
	Target []byte  `msgpack:"target,omitempty"`
}

// EntriesEvent is a part of a listing.
type EntriesEvent struct {
	Entries []FileStat `msgpack:"entries"`
}

// ReadResult answers read.
type ReadResult struct {
	FileSize int64 `msgpack:"file_size"`
}

// LinesResult answers lines.
type LinesResult struct {
	Skipped   int64 `msgpack:"skipped"`
	Returned  int64 `msgpack:"returned"`
	Left      int64 `msgpack:"left"`
	Truncated bool  `msgpack:"truncated"`
}

// WriteResult answers write.
type WriteResult struct {
	Size int64 `msgpack:"size"`
}

// ReadyEvent tells that the operation has begun.
type ReadyEvent struct {
	Kind string `msgpack:"kind"`
}

// ChangeEvent is one change under a watched path, or (Kind "ready") the word that
// the watch stands.
type ChangeEvent struct {
	Kind string `msgpack:"kind"`
	Type string `msgpack:"type,omitempty"`
	Path []byte `msgpack:"path,omitempty"`
	To   []byte `msgpack:"to,omitempty"`
}

// ArchiveResult answers tar, untar and layer.
type ArchiveResult struct {
	Entries int64 `msgpack:"entries"`
	Bytes   int64 `msgpack:"bytes"`
}

// CompareRequest names two block devices, each with a writable layer of the machine's image.
type CompareRequest struct {
	Before string `msgpack:"before"`
	After  string `msgpack:"after"`
	Limit  int64  `msgpack:"limit"`
}

// Difference is a file that is not the same over both layers.
type Difference struct {
	Change string `msgpack:"change"`
	Path   []byte `msgpack:"path"`
	Type   string `msgpack:"type"`
	Size   int64  `msgpack:"size"`
}

// DifferencesEvent is a part of what a comparison has found.
type DifferencesEvent struct {
	Differences []Difference `msgpack:"differences"`
}

// CompareResult answers compare.
type CompareResult struct {
	Truncated bool `msgpack:"truncated"`
}

// InfoResult answers info.
type InfoResult struct {
	Agent        string   `msgpack:"agent"`
	Kernel       string   `msgpack:"kernel"`
	BootID       []byte   `msgpack:"boot_id"`
	Arch         string   `msgpack:"arch"`
	UptimeMS     int64    `msgpack:"uptime_ms"`
	Transport    string   `msgpack:"transport"`
	Capabilities []string `msgpack:"capabilities"`
	Time         float64  `msgpack:"time"`
}

// SetupRequest sets what is given and leaves the rest.
type SetupRequest struct {
	Token    []byte            `msgpack:"token"`
	Hostname *string           `msgpack:"hostname"`
	Env      map[string]string `msgpack:"env"`
	User     *string           `msgpack:"user"`
	Workdir  *string           `msgpack:"workdir"`
	Hosts    []byte            `msgpack:"hosts"`
	Resolv   []byte            `msgpack:"resolv"`
	Time     *float64          `msgpack:"time"`
	AskTime  bool              `msgpack:"ask_time"`
	Entropy  []byte            `msgpack:"entropy"`
	Network  *NetworkConfig    `msgpack:"network"`
	Trust    *Trust            `msgpack:"trust"`
}

// Trust is an authority of certificates that the machine's programs are to believe.
type Trust struct {
	Certificate []byte `msgpack:"certificate"` // PEM
	Hash        string `msgpack:"hash"`        // of its name, as OpenSSL has it
	Roots       []byte `msgpack:"roots"`       // PEM: the other authorities, for an image that has none
}

// NetworkConfig is the machine's place in its network.
type NetworkConfig struct {
	MAC       []byte   `msgpack:"mac"`       // 6 bytes
	MTU       int      `msgpack:"mtu"`       // bytes
	Addresses []string `msgpack:"addresses"` // with prefix lengths
	Gateways  []string `msgpack:"gateways"`  // at most one for each version of IP
}

// FreezeRequest stops all programs for as long as its connection lasts.
type FreezeRequest struct {
	GraceMS int64 `msgpack:"grace_ms"`
}

// FrozenEvent says that no program runs any more; Complete false: some are still in the kernel.
type FrozenEvent struct {
	Kind     string `msgpack:"kind"`
	Complete bool   `msgpack:"complete"`
	TookUS   int64  `msgpack:"took_us"`
}

// ThawResult answers thaw.
type ThawResult struct {
	Frozen bool `msgpack:"frozen"`
}

// RenewRequest makes a copy of a machine a machine of its own. What is nil stays.
type RenewRequest struct {
	Token         []byte            `msgpack:"token"`
	Hostname      *string           `msgpack:"hostname"`
	Env           map[string]string `msgpack:"env"`
	User          *string           `msgpack:"user"`
	Workdir       *string           `msgpack:"workdir"`
	Hosts         []byte            `msgpack:"hosts"`
	Resolv        []byte            `msgpack:"resolv"`
	MachineID     []byte            `msgpack:"machine_id"`
	Trust         *Trust            `msgpack:"trust"`
	Entropy       []byte            `msgpack:"entropy"`
	Network       *NetworkConfig    `msgpack:"network"`
	HookTimeoutMS *int64            `msgpack:"hook_timeout_ms"`
}

// ClockEvent asks the host what time it is.
type ClockEvent struct {
	Kind string `msgpack:"kind"`
}

// RenewStep is one thing that a renewal has done, or failed to.
type RenewStep struct {
	Name    string  `msgpack:"name"`
	TookUS  int64   `msgpack:"took_us"`
	Failure *string `msgpack:"failure,omitempty"`
}

// HookResult is how the guest's own program for a restore has ended.
type HookResult struct {
	ExitCode  int    `msgpack:"exit_code"`
	TimedOut  bool   `msgpack:"timed_out"`
	Output    []byte `msgpack:"output"`
	Truncated bool   `msgpack:"truncated"`
}

// RenewResult answers renew.
type RenewResult struct {
	Frozen       bool        `msgpack:"frozen"`
	ClockStepUS  int64       `msgpack:"clock_step_us"`
	ClockErrorUS int64       `msgpack:"clock_error_us"`
	Closed       int         `msgpack:"closed"`
	Steps        []RenewStep `msgpack:"steps"`
	Hook         *HookResult `msgpack:"hook,omitempty"`
}

// MetricsRequest asks for metrics.
type MetricsRequest struct {
	Processes bool `msgpack:"processes"`
}

// MetricsResult answers metrics.
type MetricsResult struct {
	UptimeMS    int64          `msgpack:"uptime_ms"`
	Load        [3]float64     `msgpack:"load"`
	CPU         CPUMetrics     `msgpack:"cpu"`
	Memory      MemoryMetrics  `msgpack:"memory"`
	Disk        DiskMetrics    `msgpack:"disk"`
	Network     NetworkMetrics `msgpack:"network"`
	Processes   int            `msgpack:"processes"`
	ProcessList []ProcessEntry `msgpack:"process_list,omitempty"`
}

// CPUMetrics is time spent since boot over all processors.
type CPUMetrics struct {
	UserMS   int64 `msgpack:"user_ms"`
	SystemMS int64 `msgpack:"system_ms"`
	IdleMS   int64 `msgpack:"idle_ms"`
	StealMS  int64 `msgpack:"steal_ms"`
	Count    int   `msgpack:"count"`
}

// MemoryMetrics is in bytes.
type MemoryMetrics struct {
	Total     uint64 `msgpack:"total"`
	Available uint64 `msgpack:"available"`
	Free      uint64 `msgpack:"free"`
	Cached    uint64 `msgpack:"cached"`
}

// DiskMetrics is in bytes: the size of the file system at /, and what all disks have read and
// written since boot.
type DiskMetrics struct {
	Total   uint64 `msgpack:"total"`
	Free    uint64 `msgpack:"free"`
	Read    uint64 `msgpack:"read"`
	Written uint64 `msgpack:"written"`
}

// NetworkMetrics is in bytes, headers included, since boot.
type NetworkMetrics struct {
	Received uint64 `msgpack:"received"`
	Sent     uint64 `msgpack:"sent"`
}

// ProcessEntry is one process of the machine.
type ProcessEntry struct {
	Pid   int      `msgpack:"pid"`
	PPid  int      `msgpack:"ppid"`
	UID   uint32   `msgpack:"uid"`
	Name  []byte   `msgpack:"name"`
	Argv  [][]byte `msgpack:"argv"`
	State string   `msgpack:"state"`
	RSS   uint64   `msgpack:"rss"`
	CPUMS int64    `msgpack:"cpu_ms"`
}

// ShutdownRequest asks for the machine's end.
type ShutdownRequest struct {
	Reboot    bool   `msgpack:"reboot"`
	TimeoutMS *int64 `msgpack:"timeout_ms"`
}

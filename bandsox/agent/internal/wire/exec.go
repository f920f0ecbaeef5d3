package wire

// read reads the fields of an exec request that validate has found whole. It stops at one of the wrong type and returns its name.
func (r *ExecRequest) read(v *values) (field string) {
	for n := v.pairs(); n > 0 && !v.wrong; n-- {
		field = string(v.text())
		switch field {
		case "argv":
			r.Argv = v.texts()
		case "shell":
			r.Shell = v.optional()
		case "env":
			r.Env = v.variables()
		case "clear_env":
			r.ClearEnv = v.flag()
		case "cwd":
			r.Cwd = string(v.text())
		case "user":
			r.User = string(v.text())
		case "stdin":
			r.Stdin = v.flag()
		case "tty":
			r.TTY = v.winsize()
		case "timeout_ms":
			r.TimeoutMS = v.number()
		case "detached":
			r.Detached = v.flag()
		case "session":
			r.Session = string(v.text())
		case "merge_stderr":
			r.MergeStderr = v.flag()
		case "terse":
			r.Terse = v.flag()
		default:
			v.skip()
		}
	}
	return field
}

// texts reads an array of strings or binaries; nil for nil.
func (v *values) texts() []string {
	n := v.items()
	if n < 0 {
		return nil
	}
	texts := make([]string, 0, n) // validate has seen that each takes a byte at least
	for ; n > 0; n-- {
		texts = append(texts, string(v.text()))
	}
	return texts
}

// variables reads a map of strings or binaries.
func (v *values) variables() map[string]string {
	n := v.pairs()
	if n <= 0 {
		return nil
	}
	variables := make(map[string]string, n)
	for ; n > 0; n-- {
		key := string(v.text())
		variables[key] = string(v.text())
	}
	return variables
}

// winsize reads a terminal's size; nil for nil.
func (v *values) winsize() *Winsize {
	n := v.pairs()
	if n < 0 {
		return nil
	}
	size := new(Winsize)
	for ; n > 0; n-- {
		switch string(v.text()) {
		case "cols":
			size.Cols = int(v.number())
		case "rows":
			size.Rows = int(v.number())
		default:
			v.skip()
		}
	}
	return size
}

func (e *StartedEvent) append(b []byte) []byte {
	b = append(b, 0x82)
	b = append(appendField(b, "kind"), 0xa0|byte(len(e.Kind)))
	b = append(b, e.Kind...)
	return appendNumber(appendField(b, "pid"), int64(e.Pid))
}

func (r *ExitResult) append(b []byte) []byte {
	if r.Signal == nil {
		b = append(b, 0x84)
	} else {
		b = append(b, 0x85)
	}
	b = appendNumber(appendField(b, "exit_code"), int64(r.ExitCode))
	if r.Signal != nil {
		b = appendNumber(appendField(b, "signal"), int64(*r.Signal))
	}
	b = appendFlag(appendField(b, "timed_out"), r.TimedOut)
	b = appendNumber(appendField(b, "cpu_ms"), r.CPUMS)
	return appendNumber(appendField(b, "max_rss"), r.MaxRSS)
}

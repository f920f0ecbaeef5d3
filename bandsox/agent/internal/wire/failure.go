package wire

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Error codes, as docs/protocol.md lists them.
const (
	CodeNotFound         = "not_found"
	CodePermissionDenied = "permission_denied"
	CodeExists           = "exists"
	CodeNotADirectory    = "not_a_directory"
	CodeIsADirectory     = "is_a_directory"
	CodeNotEmpty         = "not_empty"
	CodeNoSpace          = "no_space"
	CodeReadOnly         = "read_only"
	CodeNameTooLong      = "name_too_long"
	CodeTooManyLinks     = "too_many_links"
	CodeInvalid          = "invalid"
	CodeChecksum         = "checksum"
	CodeNoSuchUser       = "no_such_user"
	CodeNoSuchSession    = "no_such_session"
	CodeExecNotFound     = "exec_not_found"
	CodeExecFailed       = "exec_failed"
	CodeBusy             = "busy"
	CodeCancelled        = "cancelled"
	CodeUnsupported      = "unsupported"
	CodeUnauthorized     = "unauthorized"
	CodeRefused          = "connection_refused"
	CodeUnreachable      = "unreachable"
	CodeTimedOut         = "timed_out"
	CodeIO               = "io"
	CodeInternal         = "internal"
)

// Failure is the payload of an ERROR, and the error that operations return when
// they know its code.
type Failure struct {
	Code    string  `msgpack:"code"`
	Message string  `msgpack:"message"`
	Errno   *string `msgpack:"errno"`
	Path    []byte  `msgpack:"path"`
}

func (f *Failure) Error() string { return f.Code + ": " + f.Message }

// Fail makes a Failure without an errno.
func Fail(code, format string, args ...any) *Failure {
	return &Failure{Code: code, Message: fmt.Sprintf(format, args...)}
}

// FailPath makes a Failure about a path from the error a system call gave.
func FailPath(path string, err error) *Failure {
	f := AsFailure(err)
	if f.Path == nil {
		f.Path = []byte(path)
	}
	return f
}

// AsFailure turns any error into what the host is told.
func AsFailure(err error) *Failure {
	var f *Failure
	if errors.As(err, &f) {
		return f
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		name := unix.ErrnoName(errno)
		return &Failure{Code: codeOf(errno), Message: err.Error(), Errno: &name}
	}
	if errors.Is(err, ErrViolation) {
		return Fail(CodeInvalid, "%v", err)
	}
	return Fail(CodeIO, "%v", err)
}

func codeOf(errno unix.Errno) string {
	switch errno {
	case unix.ENOENT:
		return CodeNotFound
	case unix.EACCES, unix.EPERM:
		return CodePermissionDenied
	case unix.EEXIST:
		return CodeExists
	case unix.ENOTDIR:
		return CodeNotADirectory
	case unix.EISDIR:
		return CodeIsADirectory
	case unix.ENOTEMPTY:
		return CodeNotEmpty
	case unix.ENOSPC, unix.EDQUOT:
		return CodeNoSpace
	case unix.EROFS:
		return CodeReadOnly
	case unix.ENAMETOOLONG:
		return CodeNameTooLong
	case unix.ELOOP, unix.EMLINK:
		return CodeTooManyLinks
	case unix.EINVAL, unix.ESPIPE:
		return CodeInvalid
	case unix.EBUSY, unix.ETXTBSY:
		return CodeBusy
	case unix.ECONNREFUSED:
		return CodeRefused
	case unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EADDRNOTAVAIL, unix.EAFNOSUPPORT:
		return CodeUnreachable
	case unix.ETIMEDOUT:
		return CodeTimedOut
	case unix.ENOSYS, unix.EOPNOTSUPP:
		return CodeUnsupported
	}
	return CodeIO
}

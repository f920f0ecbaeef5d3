package process

import (
	"bytes"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

const (
	passwdFile = "/etc/passwd"
	groupFile  = "/etc/group"

	// maxAccountFile bounds what is read of an image's account files.
	maxAccountFile = 4 << 20
)

// Account is who a process runs as.
type Account struct {
	UID, GID uint32
	Groups   []uint32 // supplementary
	Home     string
}

// LookupAccount finds the account for a Dockerfile's USER: a name or uid, and after a
// colon a group's name or gid. It looks into the image's own files. A uid that they do not
// list is fine, as in Docker; supplementary groups apply when no group is given.
//
// The last answer is kept for as long as the files do not change: every exec asks, and almost
// all ask for the same user.
func LookupAccount(user string) (Account, error) {
	stamps := [2]fileStamp{stampOf(passwdFile), stampOf(groupFile)}
	lastLookup.Lock()
	defer lastLookup.Unlock()
	if lastLookup.valid && lastLookup.user == user && lastLookup.stamps == stamps {
		return lastLookup.account, nil
	}
	account, err := findAccount(user)
	lastLookup.valid = err == nil
	lastLookup.user, lastLookup.stamps, lastLookup.account = user, stamps, account
	return account, err
}

var lastLookup struct {
	sync.Mutex
	valid   bool
	user    string
	stamps  [2]fileStamp
	account Account
}

// fileStamp changes whenever a file's content does.
type fileStamp struct {
	ino          uint64
	size         int64
	mtime, ctime unix.Timespec
}

func stampOf(path string) fileStamp {
	var st unix.Stat_t
	_ = unix.Stat(path, &st) // no file has the zero stamp
	return fileStamp{st.Ino, st.Size, st.Mtim, st.Ctim}
}

func findAccount(user string) (Account, error) {
	name, group, hasGroup := strings.Cut(user, ":")
	account, login, err := findUser(readAccounts(passwdFile), name)
	if err != nil || !hasGroup && login == "" {
		return account, err
	}
	groups := readAccounts(groupFile)
	if !hasGroup {
		account.Groups = groupsOf(groups, login, account.GID)
		return account, nil
	}
	account.GID, err = findGroup(groups, group)
	return account, err
}

// findUser also returns the login name, empty when the file does not know the user.
func findUser(passwd []byte, name string) (Account, string, error) {
	if name == "" {
		name = "0"
	}
	uid, isNumber := parseID(name)
	byUID := Account{UID: uid, Home: "/"}
	login := ""
	for fields := range records(passwd, 7) {
		entryUID, ok := parseID(fields[2])
		if !ok {
			continue
		}
		matches := fields[0] == name
		if !matches && (!isNumber || entryUID != uid || login != "") {
			continue
		}
		gid, _ := parseID(fields[3])
		byUID = Account{UID: entryUID, GID: gid, Home: fields[5]}
		if byUID.Home == "" {
			byUID.Home = "/"
		}
		login = fields[0]
		if matches {
			return byUID, login, nil
		}
	}
	if login == "" && !isNumber {
		return byUID, "", wire.Fail(wire.CodeNoSuchUser, "no user %q in %s", name, passwdFile)
	}
	return byUID, login, nil
}

func findGroup(groups []byte, name string) (uint32, error) {
	for fields := range records(groups, 4) {
		if gid, ok := parseID(fields[2]); ok && fields[0] == name {
			return gid, nil
		}
	}
	if gid, ok := parseID(name); ok {
		return gid, nil
	}
	return 0, wire.Fail(wire.CodeNoSuchUser, "no group %q in %s", name, groupFile)
}

func groupsOf(groups []byte, login string, primary uint32) []uint32 {
	var ids []uint32
	for fields := range records(groups, 4) {
		gid, ok := parseID(fields[2])
		if ok && gid != primary && slices.Contains(strings.Split(fields[3], ","), login) {
			ids = append(ids, gid)
		}
	}
	return ids
}

// records yields the lines of an account file that have at least n fields.
func records(file []byte, n int) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		for line := range bytes.Lines(file) {
			fields := strings.Split(string(bytes.TrimRight(line, "\r\n")), ":")
			if len(fields) >= n && !yield(fields) {
				return
			}
		}
	}
}

// parseID reads a uid or gid. The highest value means "leave it" to the kernel.
func parseID(s string) (uint32, bool) {
	id, err := strconv.ParseUint(s, 10, 32)
	return uint32(id), err == nil && id != 1<<32-1
}

// readAccounts returns nothing when there is no such file: an image may have none.
func readAccounts(path string) []byte {
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer file.Close()
	content, _ := io.ReadAll(io.LimitReader(file, maxAccountFile))
	return content
}

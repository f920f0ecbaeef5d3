package process

import (
	"slices"
	"testing"

	"bandsox.dev/agent/internal/wire"
)

const passwdSample = "root:x:0:0:root:/root:/bin/sh\n# comment\napp:x:1000:1001::/home/app:/bin/sh\n1000:x:7:7::/odd:\nbroken:x\nbig:x:4294967295:1::/:\n"
const groupSample = "root:x:0:\nwheel:x:10:root,app\nvideo:x:44:app\nprimary:x:1001:app\n"

func TestUsersAreFoundByNameAndByNumber(t *testing.T) {
	for name, want := range map[string]Account{
		"root": {UID: 0, GID: 0, Home: "/root"},
		"":     {UID: 0, GID: 0, Home: "/root"},
		"app":  {UID: 1000, GID: 1001, Home: "/home/app"},
		"1000": {UID: 7, GID: 7, Home: "/odd"}, // a name goes before a number, as in Docker
		"0":    {UID: 0, GID: 0, Home: "/root"},
		"4242": {UID: 4242, GID: 0, Home: "/"},
	} {
		got, _, err := findUser([]byte(passwdSample), name)
		if err != nil || got.UID != want.UID || got.GID != want.GID || got.Home != want.Home {
			t.Errorf("%q: %+v %v", name, got, err)
		}
	}
	for _, name := range []string{"nobody", "broken", "big", "-1", "4294967295"} {
		if _, _, err := findUser([]byte(passwdSample), name); wire.AsFailure(err).Code != wire.CodeNoSuchUser {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestSupplementaryGroupsLeaveOutThePrimaryOne(t *testing.T) {
	if got := groupsOf([]byte(groupSample), "app", 1001); !slices.Equal(got, []uint32{10, 44}) {
		t.Error(got)
	}
}

func TestGroupsAreFoundByNameAndByNumber(t *testing.T) {
	for name, want := range map[string]uint32{"video": 44, "77": 77} {
		if got, err := findGroup([]byte(groupSample), name); err != nil || got != want {
			t.Errorf("%q: %d %v", name, got, err)
		}
	}
	if _, err := findGroup([]byte(groupSample), "none"); err == nil {
		t.Error("a group that is not there was found")
	}
}

func TestAnImageWithoutAccountsHasRoot(t *testing.T) {
	got, login, err := findUser(nil, "")
	if err != nil || got.UID != 0 || got.Home != "/" || login != "" {
		t.Error(got, login, err)
	}
}

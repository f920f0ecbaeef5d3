package netlink

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// inNamespace dials in a network namespace that ends with the test; its thread is not used again.
func inNamespace(t *testing.T) *Conn {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making a network namespace needs root")
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skip("this machine makes no network namespaces: ", err)
	}
	conn, err := Dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// pair makes two connected devices, both up, and returns the first.
func pair(t *testing.T, conn *Conn) Link {
	t.Helper()
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	if err := conn.AddVeth("left", Settings{MTU: 1400, Group: 7}, "right", int(here.Fd())); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"right", "left"} {
		link, err := conn.Find(name)
		if err == nil {
			err = conn.Set(link.Index, Settings{Up: true})
		}
		if err != nil {
			t.Fatal(name, err)
		}
	}
	link, err := conn.Find("left")
	if err != nil {
		t.Fatal(err)
	}
	return link
}

func TestADeviceIsWhatItWasMade(t *testing.T) {
	conn := inNamespace(t)
	link := pair(t, conn)
	if !link.Up || link.MTU != 1400 || link.Kind != unix.ARPHRD_ETHER {
		t.Errorf("%+v", link)
	}
	mac := []byte{2, 0, 198, 19, 0, 6}
	if err := conn.Set(link.Index, Settings{Down: true}); err != nil {
		t.Fatal(err)
	}
	if err := conn.Set(link.Index, Settings{MAC: mac, MTU: 1300}); err != nil {
		t.Fatal(err)
	}
	link, err := conn.Find("left")
	if err != nil || link.Up || link.MTU != 1300 || !bytes.Equal(link.MAC, mac) {
		t.Errorf("%+v %v", link, err)
	}
	if err := conn.Delete(link.Index); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Find("right"); !errors.Is(err, unix.ENODEV) {
		t.Error("the other end is still there: ", err)
	}
}

func TestADeviceThatIsUpGetsAnotherHardwareAddress(t *testing.T) {
	conn := inNamespace(t)
	link := pair(t, conn)
	mac := [6]byte{2, 0, 198, 19, 0, 0xfe}
	if err := conn.SetMAC("left", mac); err != nil {
		t.Fatal(err)
	}
	if now, err := conn.Find("left"); err != nil || !now.Up || !bytes.Equal(now.MAC, mac[:]) || now.Index != link.Index {
		t.Errorf("%+v %v", now, err)
	}
	if err := conn.SetMAC("nobody", mac); !errors.Is(err, unix.ENODEV) {
		t.Error(err)
	}
}

func TestAddressesComeAndGo(t *testing.T) {
	conn := inNamespace(t)
	link := pair(t, conn)
	for _, text := range []string{"198.19.0.5/30", "fd62:616e:6473::5/126"} {
		prefix := netip.MustParsePrefix(text)
		for range 2 { // the second time changes nothing
			if err := conn.AddAddress(link.Index, prefix); err != nil {
				t.Fatal(text, err)
			}
		}
		if !has(t, conn, Address{link.Index, prefix}) {
			t.Error(text, " is missing")
		}
		if err := conn.DeleteAddress(link.Index, prefix); err != nil {
			t.Fatal(text, err)
		}
		if has(t, conn, Address{link.Index, prefix}) {
			t.Error(text, " is still there")
		}
	}
}

func has(t *testing.T, conn *Conn, wanted Address) bool {
	t.Helper()
	addresses, err := conn.Addresses()
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range addresses {
		if address == wanted {
			return true
		}
	}
	return false
}

func TestARouteIsGivenOutOnce(t *testing.T) {
	conn := inNamespace(t)
	link := pair(t, conn)
	if err := conn.AddAddress(link.Index, netip.MustParsePrefix("198.19.0.1/32")); err != nil {
		t.Fatal(err) // without any address there is no table to look the next hop up in
	}
	for _, c := range []struct{ to, via string }{{"198.19.0.6/32", "198.19.0.2"}, {"fd62:616e:6473::6/128", "fd62:616e:6473::2"}} {
		route := Route{To: netip.MustParsePrefix(c.to), Via: netip.MustParseAddr(c.via), Link: link.Index, OnLink: true, NewOnly: true}
		if err := conn.AddRoute(route); err != nil {
			t.Fatal(c.to, err)
		}
		if err := conn.AddRoute(route); !errors.Is(err, unix.EEXIST) {
			t.Error(c.to, " was given out twice: ", err)
		}
	}
}

func TestTheBestDefaultRouteComesFirst(t *testing.T) {
	conn := inNamespace(t)
	if routes, err := conn.DefaultRoutes(false); err != nil || len(routes) != 0 {
		t.Fatal(routes, err)
	}
	left := pair(t, conn)
	right, err := conn.Find("right")
	if err != nil {
		t.Fatal(err)
	}
	everywhere := netip.MustParsePrefix("0.0.0.0/0")
	for _, route := range []Route{{To: everywhere, Link: left.Index, Metric: 200}, {To: everywhere, Link: right.Index, Metric: 100}} {
		if err := conn.AddRoute(route); err != nil {
			t.Fatal(err)
		}
	}
	if routes, err := conn.DefaultRoutes(false); err != nil || len(routes) != 2 || routes[0] != right.Index {
		t.Error(routes, err)
	}
}

func TestAttributesThatLieAboutTheirSizeEndTheList(t *testing.T) {
	for _, data := range [][]byte{{1}, {3, 0, 1, 0}, {255, 255, 1, 0, 9}, append(attribute(1, []byte("x")), 9, 0, 2, 0)} {
		attributes(data, func(kind uint16, _ []byte) {
			if kind != 1 {
				t.Errorf("%v: %d", data, kind)
			}
		})
	}
}

func TestATableIsSeenWhileItIsThere(t *testing.T) {
	nft, err := exec.LookPath("nft")
	if err != nil {
		t.Skip("making a table needs nft(8)")
	}
	inNamespace(t)
	for _, step := range []struct {
		rules string
		there bool
	}{{"add table inet other", false}, {"add table inet mine", true}, {"delete table inet mine", false}} {
		if output, err := exec.Command(nft, step.rules).CombinedOutput(); err != nil {
			t.Fatalf("%s: %s", step.rules, output)
		}
		if there, err := HasTable("mine"); err != nil || there != step.there {
			t.Errorf("after %q: %v, %v", step.rules, there, err)
		}
	}
}

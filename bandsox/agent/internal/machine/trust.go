package machine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

const (
	// AuthorityPath is the authority's certificate alone, and AuthoritiesPath what the system trusts together with it.
	AuthorityPath   = "/etc/bandsox/authority.pem"
	AuthoritiesPath = "/etc/bandsox/authorities.pem"

	beforeAuthority = "# authority of this machine's secrets: begin\n"
	afterAuthority  = "# authority of this machine's secrets: end\n"

	// largestBundle is the largest file of certificates that is read; those of distributions have a quarter of a MiB.
	largestBundle = 8 << 20
)

var (
	// bundles is where distributions keep what they trust in one file: Debian, Alpine and Arch; Fedora; SUSE; and what leads to one of these.
	bundles = []string{
		"/etc/ssl/certs/ca-certificates.crt",
		"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
		"/var/lib/ca-certificates/ca-bundle.pem",
		"/etc/pki/tls/certs/ca-bundle.crt",
		"/etc/ssl/ca-bundle.pem",
		"/etc/ssl/cert.pem",
	}
	// hashed is where OpenSSL looks for an authority by the hash of its name (openssl-rehash(1)).
	hashed = []string{"/etc/ssl/certs", "/etc/pki/tls/certs"}
	// anchors is where a distribution's own program looks for authorities when it makes its files anew.
	anchors = []string{
		"/usr/local/share/ca-certificates",
		"/etc/pki/ca-trust/source/anchors",
		"/etc/pki/trust/anchors",
		"/etc/ca-certificates/trust-source/anchors",
	}
	nameHash = regexp.MustCompile(`^[0-9a-f]{8}$`)
)

// RenewTrust has the programs of a machine in which none runs believe an authority, in place of the one that was set before.
func (m *Machine) RenewTrust(trust *wire.Trust) error { return m.setTrust(trust, m.renewFile) }

// setTrust has programs believe an authority, in the ways in which they look for one. One that was set before is believed no more.
func (m *Machine) setTrust(trust *wire.Trust, write writer) error {
	if trust == nil {
		return nil
	}
	if !nameHash.MatchString(trust.Hash) {
		return wire.Fail(wire.CodeInvalid, "%q is no hash of an authority's name", trust.Hash)
	}
	system, err := m.extendBundles(trust.Certificate)
	if err != nil {
		return err
	}
	if system == nil { // an image without authorities of its own
		system = trust.Roots
	}
	if err := write(AuthorityPath, trust.Certificate); err != nil {
		return err
	}
	if err := write(AuthoritiesPath, extended(system, trust.Certificate)); err != nil {
		return err
	}
	for _, directory := range hashed {
		if err := placeIn(directory, trust.Hash+".0", trust.Certificate, write); err != nil {
			return err
		}
	}
	for _, directory := range anchors {
		if err := placeIn(directory, "bandsox.crt", trust.Certificate, write); err != nil {
			return err
		}
	}
	return nil
}

// extendBundles adds the authority to what the image has, and returns the first of it as it was; nil where the image has none.
func (m *Machine) extendBundles(certificate []byte) ([]byte, error) {
	var first []byte
	var seen []string
	for _, name := range bundles {
		path, err := filepath.EvalSymlinks(name)
		if err != nil || slices.Contains(seen, path) {
			continue
		}
		seen = append(seen, path)
		bundle, err := readBundle(path)
		if err != nil {
			return nil, wire.FailPath(path, err)
		}
		if bundle == nil {
			continue
		}
		before := withoutAuthority(bundle)
		if first == nil {
			first = before
		}
		if with := extended(before, certificate); !bytes.Equal(with, bundle) {
			if err := m.replaceFile(path, with); err != nil {
				return nil, err
			}
		}
	}
	return first, nil
}

// placeIn writes a file into a directory, where the image has that.
func placeIn(directory, name string, content []byte, write writer) error {
	real, err := filepath.EvalSymlinks(directory)
	if err != nil {
		return nil
	}
	if status, err := os.Stat(real); err != nil || !status.IsDir() {
		return nil
	}
	return write(filepath.Join(real, name), content)
}

// readBundle reads a regular file of bounded size; nil where there is none that is not empty.
func readBundle(path string) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe would hold this up
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	defer file.Close()
	if status, err := file.Stat(); err != nil || !status.Mode().IsRegular() {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(file, largestBundle+1))
	if err != nil {
		return nil, err
	}
	if len(content) > largestBundle {
		return nil, fmt.Errorf("more than %d bytes of certificates", largestBundle)
	}
	if len(content) == 0 {
		return nil, nil
	}
	return content, nil
}

func extended(bundle, certificate []byte) []byte {
	whole := slices.Clone(bundle)
	if len(whole) > 0 && whole[len(whole)-1] != '\n' {
		whole = append(whole, '\n')
	}
	return slices.Concat(whole, []byte(beforeAuthority), certificate, []byte(afterAuthority))
}

func withoutAuthority(bundle []byte) []byte {
	before, rest, found := bytes.Cut(bundle, []byte(beforeAuthority))
	if !found {
		return bundle
	}
	_, after, _ := bytes.Cut(rest, []byte(afterAuthority))
	return slices.Concat(before, after)
}

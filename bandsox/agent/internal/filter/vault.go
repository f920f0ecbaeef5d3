package filter

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
)

// Secret is a value that the machine has not: its programs write a placeholder, and requests to the secret's hosts get the value.
type Secret struct {
	Placeholder string `json:"placeholder"`
	Value       string `json:"value"` // empty: it was withdrawn, and requests go out as they are
	Hosts       []Rule `json:"hosts"` // names, over TCP, with ports
	Query       bool   `json:"query"` // look in the query of the URL too
	Body        bool   `json:"body"`  // and in the body
	Plain       bool   `json:"plain"` // and send it without TLS
}

// Vault is the secrets of a machine, and the authority that lets requests be looked into.
type Vault struct {
	Authority Authority `json:"authority"`
	Roots     string    `json:"-"` // PEM: who is trusted upstream; empty: whom this host trusts
	Secrets   []Secret  `json:"secrets"`
}

// vault is a Vault that was found to work.
type vault struct {
	issuer  *issuer
	roots   *x509.CertPool
	hosts   []Rule // of all its secrets
	secrets atomic.Pointer[[]Secret]
}

// openVault refuses what would not work.
func openVault(config *Vault) (*vault, error) {
	v := &vault{}
	var err error
	if v.issuer, err = newIssuer(&config.Authority); err != nil {
		return nil, err
	}
	if v.roots, err = authorities(config.Roots); err != nil {
		return nil, err
	}
	for _, secret := range config.Secrets {
		for _, host := range secret.Hosts {
			host.secret = true
			v.hosts = append(v.hosts, host)
			if err := v.issuer.check(strings.Replace(host.Name, "*", "any", 1)); err != nil {
				return nil, fmt.Errorf("the authority for %s: %w", host.Name, err)
			}
		}
	}
	return v, v.replace(config.Secrets)
}

// authorities is who is trusted upstream.
func authorities(given string) (*x509.CertPool, error) {
	if given != "" {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM([]byte(given)) {
			return nil, errors.New("the file of trusted authorities has no certificate")
		}
		return pool, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("whom this host trusts: %w", err)
	}
	if pool.Equal(x509.NewCertPool()) {
		return nil, errors.New("this host trusts no authority of certificates")
	}
	return pool, nil
}

// replace puts other values in force. The hosts stay what they were: the authority is for no others.
func (v *vault) replace(secrets []Secret) error {
	for _, secret := range secrets {
		if secret.Placeholder == "" {
			return errors.New("a secret without a placeholder")
		}
		for _, host := range secret.Hosts {
			host.secret = true
			same := func(known Rule) bool { return known.Name == host.Name && slices.Equal(known.Ports, host.Ports) }
			if host.Name == "" || host.Protocol != "tcp" || !slices.ContainsFunc(v.hosts, same) {
				return fmt.Errorf("a secret for another host: %q", host.Name)
			}
		}
	}
	v.secrets.Store(&secrets)
	return nil
}

// looksInto tells whether TLS for a name ends here.
func (v *vault) looksInto(name string, port uint16) bool {
	return v != nil && slices.ContainsFunc(v.hosts, func(r Rule) bool { return r.matchesName(name) && r.matchesPort("tcp", port) })
}

// of is the secrets that requests for a name get.
func (v *vault) of(name string, port uint16, secure bool) []Secret {
	var found []Secret
	for _, secret := range *v.secrets.Load() {
		here := func(r Rule) bool { return r.matchesName(name) && r.matchesPort("tcp", port) }
		if secret.Value != "" && (secure || secret.Plain) && slices.ContainsFunc(secret.Hosts, here) {
			found = append(found, secret)
		}
	}
	return found
}

package filter

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // what OpenSSL names files by
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync"
	"time"
)

const (
	// authorityName is what every machine's authority is called; a key of its own tells them apart.
	authorityName = "BandSox authority of this machine"

	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 7 * 24 * time.Hour
	leafRenewal   = 24 * time.Hour // before its end
	clockError    = 24 * time.Hour // of the machine
	maxLeaves     = 1024
)

// Authority is what a machine's programs trust for the names of its secrets, and for no other name (RFC 5280, 4.2.1.10). Its key stays
// on the host.
type Authority struct {
	Certificate string `json:"certificate"` // PEM
	Key         string `json:"key"`         // PEM, PKCS #8
	Hash        string `json:"hash"`        // of its name, by which OpenSSL finds it in a directory
}

// NewAuthority makes an authority for these names, of which those that begin with "*." stand for what is below.
func NewAuthority(names []string) (*Authority, error) {
	if len(names) == 0 {
		return nil, errors.New("an authority for no name")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:                serial,
		Subject:                     pkix.Name{CommonName: authorityName},
		NotBefore:                   time.Now().Add(-clockError),
		NotAfter:                    time.Now().Add(authorityLife),
		KeyUsage:                    x509.KeyUsageCertSign,
		BasicConstraintsValid:       true,
		IsCA:                        true,
		MaxPathLenZero:              true,
		PermittedDNSDomainsCritical: true,
		ExcludedIPRanges:            []*net.IPNet{{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, {IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}},
	}
	for _, name := range names {
		template.PermittedDNSDomains = append(template.PermittedDNSDomains, strings.TrimPrefix(name, "*."))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	hash, err := nameHash(authorityName)
	if err != nil {
		return nil, err
	}
	return &Authority{
		Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		Key:         string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
		Hash:        hash,
	}, nil
}

// nameHash is how OpenSSL names a file with the certificate of somebody with this common name (X509_NAME_hash(3)): a digest of the name in
// lower case, without its outermost header.
func nameHash(commonName string) (string, error) {
	attribute := struct {
		Type  asn1.ObjectIdentifier
		Value string `asn1:"utf8"`
	}{asn1.ObjectIdentifier{2, 5, 4, 3}, strings.ToLower(commonName)}
	inner, err := asn1.Marshal(attribute)
	if err != nil {
		return "", err
	}
	set, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSet, IsCompound: true, Bytes: inner})
	if err != nil {
		return "", err
	}
	digest := sha1.Sum(set) //nolint:gosec // as above
	return fmt.Sprintf("%08x", binary.LittleEndian.Uint32(digest[:4])), nil
}

// issuer gives out certificates for names.
type issuer struct {
	pair   tls.Certificate // the authority's
	key    *ecdsa.PrivateKey
	mu     sync.Mutex
	leaves map[string]*tls.Certificate
}

func newIssuer(authority *Authority) (*issuer, error) {
	pair, err := tls.X509KeyPair([]byte(authority.Certificate), []byte(authority.Key))
	if err != nil {
		return nil, fmt.Errorf("the authority: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return &issuer{pair: pair, key: key, leaves: map[string]*tls.Certificate{}}, nil
}

// leaf is the certificate for a name, made when it is first wanted.
func (i *issuer) leaf(name string) (*tls.Certificate, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if made, there := i.leaves[name]; there && time.Until(made.Leaf.NotAfter) > leafRenewal {
		return made, nil
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		DNSNames:     []string{name},
		NotBefore:    time.Now().Add(-clockError),
		NotAfter:     time.Now().Add(leafLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, i.pair.Leaf, i.key.Public(), i.pair.PrivateKey)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	if len(i.leaves) >= maxLeaves {
		clear(i.leaves)
	}
	i.leaves[name] = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: i.key, Leaf: parsed}
	return i.leaves[name], nil
}

// check tries whether one who trusts the authority accepts a certificate for a name.
func (i *issuer) check(name string) error {
	leaf, err := i.leaf(name)
	if err != nil {
		return err
	}
	trusted := x509.NewCertPool()
	trusted.AddCert(i.pair.Leaf)
	_, err = leaf.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: trusted})
	return err
}

func serialNumber() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

// Package accesstest opens the keys of a control plane for tests of the packages to the right.
package accesstest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"

	"holdfast/internal/access"
	"holdfast/internal/db"
	"holdfast/internal/secret"
	"holdfast/internal/secret/keeper"
)

// Box opens the data key of d with a fixed local key.
func Box(t testing.TB, d *db.DB) *secret.Box {
	t.Helper()
	k, err := keeper.Open(context.Background(), "base64key://AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	if err != nil {
		t.Fatal(err)
	}
	box, err := secret.OpenBox(context.Background(), d, k)
	if err != nil {
		t.Fatal(err)
	}
	return box
}

// Keys opens the keys in d, made by the first call.
func Keys(t testing.TB, d *db.DB) *access.Keys {
	t.Helper()
	keys, err := access.OpenKeys(context.Background(), d, Box(t, d))
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// Request makes a node's key and the request that asks for its certificate.
func Request(t testing.TB) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return key, csr
}

// Join lets a node join d with a token made for it, and returns its client certificate.
func Join(t testing.TB, d *db.DB, keys *access.Keys, node, site string, roles ...string) *tls.Certificate {
	t.Helper()
	key, csr := Request(t)
	var der []byte
	err := d.Tx(context.Background(), func(ctx context.Context, tx db.Tx) error {
		text, _, err := keys.CreateJoinToken(ctx, tx, access.JoinBounds{Site: site, Roles: roles, Node: node, Life: time.Hour})
		if err != nil {
			return err
		}
		der, err = keys.Join(ctx, tx, text, access.Applicant{Node: node, Site: site, Roles: roles, CSR: csr})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

package access

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"filippo.io/age"
	"golang.org/x/mod/sumdb/note"

	"holdfast/internal/db"
	"holdfast/internal/secret"
)

// Keys are the private keys of the control plane, opened. Nothing of it is printed.
type Keys struct {
	Authority *Authority
	order     ed25519.PrivateKey
	custodian *age.X25519Identity
	replyTo   *age.X25519Identity
	audit     note.Signer
	auditKey  string // verifier key
}

// Format implements fmt.Formatter: an age identity would otherwise print itself.
func (k *Keys) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(secret.Mask)) }

// OrderKey signs orders and settings; see package step.
func (k *Keys) OrderKey() ed25519.PrivateKey { return k.order }

// OrderPublic is what nodes check orders and settings with.
func (k *Keys) OrderPublic() ed25519.PublicKey { return k.order.Public().(ed25519.PublicKey) }

// Custodian opens the custodian's envelopes of snapshots.
func (k *Keys) Custodian() age.Identity { return k.custodian }

// CustodianRecipient is what backups seal to for the custodian.
func (k *Keys) CustodianRecipient() string { return k.custodian.Recipient().String() }

// ReplyTo opens what nodes seal to the server.
func (k *Keys) ReplyTo() age.Identity { return k.replyTo }

// ReplyToRecipient is what nodes seal to.
func (k *Keys) ReplyToRecipient() string { return k.replyTo.Recipient().String() }

// AuditSigner signs the heads of the audit log.
func (k *Keys) AuditSigner() note.Signer { return k.audit }

// AuditVerifierKey is the public half of AuditSigner, as package note writes it.
func (k *Keys) AuditVerifierKey() string { return k.auditKey }

// OpenKeys opens the keys in the database, and makes them all in a database that has none.
func OpenKeys(ctx context.Context, d *db.DB, box *secret.Box) (*Keys, error) {
	keys := &Keys{}
	err := d.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		ring := ring{ctx, tx, box}
		return errors.Join(ring.authority(keys), ring.orderKey(keys), ring.identity("custodian", &keys.custodian),
			ring.identity("reply_to", &keys.replyTo), ring.auditSigner(keys))
	})
	return keys, err
}

// ring opens one key after the other in one transaction.
type ring struct {
	ctx context.Context // of the transaction below, and lives as long
	tx  db.Tx
	box *secret.Box
}

// key is one pair: public as it is shown, private as it is sealed.
type key struct {
	public  []byte
	private []byte
}

// open gives the named key, after making and keeping it if there is none.
func (r ring) open(name string, generate func() (key, error)) (key, error) {
	public, sealed, err := loadKey(r.ctx, r.tx, name)
	if errors.Is(err, sql.ErrNoRows) {
		made, err := generate()
		if err != nil {
			return key{}, fmt.Errorf("generate the %s key: %w", name, err)
		}
		return made, insertKey(r.ctx, r.tx, name, made.public, r.box.Seal("key/"+name, made.private))
	}
	if err != nil {
		return key{}, fmt.Errorf("read the %s key: %w", name, err)
	}
	private, err := r.box.Open("key/"+name, sealed)
	return key{public, private}, err
}

func (r ring) authority(keys *Keys) error {
	k, err := r.open("authority", func() (key, error) { return generateAuthority(r.tx.Now) })
	if err != nil {
		return err
	}
	certificate, err := x509.ParseCertificate(k.public)
	if err != nil {
		return fmt.Errorf("parse the authority's certificate: %w", err)
	}
	private, err := x509.ParseECPrivateKey(k.private)
	if err != nil {
		return errors.New("parse the authority's private key") // the cause might quote it
	}
	keys.Authority = &Authority{certificate, private}
	return nil
}

func (r ring) orderKey(keys *Keys) error {
	k, err := r.open("order", generateOrderKey)
	if err != nil {
		return err
	}
	if len(k.private) != ed25519.SeedSize {
		return errors.New("parse the order key: its size is wrong")
	}
	keys.order = ed25519.NewKeyFromSeed(k.private)
	return nil
}

func (r ring) identity(name string, into **age.X25519Identity) error {
	k, err := r.open(name, generateIdentity)
	if err != nil {
		return err
	}
	*into, err = age.ParseX25519Identity(string(k.private))
	if err != nil {
		return fmt.Errorf("parse the %s identity", name) // the cause might quote it
	}
	return nil
}

func (r ring) auditSigner(keys *Keys) error {
	k, err := r.open("audit", generateAuditKey)
	if err != nil {
		return err
	}
	keys.audit, err = note.NewSigner(string(k.private))
	keys.auditKey = string(k.public)
	if err != nil {
		return errors.New("parse the audit signer's key") // the cause might quote it
	}
	return nil
}

func generateAuthority(now time.Time) (key, error) {
	authority, err := newAuthority(now)
	if err != nil {
		return key{}, err
	}
	private, err := authority.privateKey()
	return key{authority.Certificate.Raw, private}, err
}

func generateOrderKey() (key, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return key{}, err
	}
	return key{public, private.Seed()}, nil
}

func generateIdentity() (key, error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return key{}, err
	}
	return key{[]byte(id.Recipient().String()), []byte(id.String())}, nil
}

func generateAuditKey() (key, error) {
	private, public, err := note.GenerateKey(rand.Reader, "holdfast-audit")
	return key{[]byte(public), []byte(private)}, err
}

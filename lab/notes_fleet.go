package lab

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/template"
)

//go:embed fleet/*.tmpl
var fleetFiles embed.FS

// declared is what the templates of the fleet files are filled with.
type declared struct {
	API, APIDigest, Worker, WorkerDigest string
	Domain, Lost, Surviving              string
	Expect                               int
}

type declaredInstance struct{ Name, Site, Vault, Key string }

// Declare writes the fleet folder: the product with its release pinned to the very programs that were built, one file
// for each customer, and a recovery plan for the loss of SiteA.
func (n *Notes) Declare(ctx context.Context) error {
	for _, folder := range []string{filepath.Join(n.Fleet, "instances"), filepath.Join(n.Fleet, "keys"), n.People} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return err
		}
	}
	if err := Each(n.Customers, func(c *Customer) error { return n.DeclareCustomer(ctx, c) }); err != nil {
		return err
	}
	all := declared{Domain: domain, Lost: SiteA, Surviving: SiteB, Expect: len(n.In(SiteA))}
	if err := n.pin(&all); err != nil {
		return err
	}
	for _, file := range []string{"sites.yaml", "product.yaml", "recovery.yaml"} {
		if err := n.fill(file, file, all); err != nil {
			return err
		}
	}
	return nil
}

// DeclareCustomer writes one customer's file and makes their key pair; the private half goes to the people.
func (n *Notes) DeclareCustomer(ctx context.Context, c *Customer) error {
	i := declaredInstance{Name: c.Instance, Site: c.Site, Vault: SiteB + "-vault", Key: "keys/" + c.Instance + ".asc"}
	if c.Site == SiteB {
		i.Vault = SiteA + "-vault"
	}
	if err := n.makeKey(ctx, i); err != nil {
		return err
	}
	return n.fill("instance.yaml", filepath.Join("instances", c.Instance+".yaml"), i)
}

// SecretKey is the file of the private half of a customer's recovery key.
func (n *Notes) SecretKey(instance string) string { return filepath.Join(n.People, instance+".asc") }

func (n *Notes) makeKey(ctx context.Context, i declaredInstance) error {
	public := filepath.Join(n.Fleet, i.Key)
	if _, err := os.Stat(public); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	_, err := n.Run(ctx, "vault", "keys", "create", i.Name, "--public", public, "--secret", n.SecretKey(i.Name))
	return err
}

// pin gives the release the programs' paths and digests.
func (n *Notes) pin(all *declared) (err error) {
	bin, err := filepath.Abs(n.Bin)
	if err != nil {
		return err
	}
	all.API, all.Worker = filepath.Join(bin, "notes-api"), filepath.Join(bin, "notes-worker")
	if all.APIDigest, err = digest(all.API); err != nil {
		return err
	}
	all.WorkerDigest, err = digest(all.Worker)
	return err
}

func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return "", fmt.Errorf("hash %s: %w", path, err)
	}
	return "sha256:" + hex.EncodeToString(hash.Sum(nil)), nil
}

func (n *Notes) fill(name, target string, data any) error {
	t, err := template.ParseFS(fleetFiles, "fleet/"+name+".tmpl")
	if err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(n.Fleet, target))
	if err != nil {
		return err
	}
	return errors.Join(t.Execute(f, data), f.Close())
}

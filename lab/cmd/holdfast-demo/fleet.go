package main

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
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
	Instances                            []declaredInstance
	Expect                               int
}

type declaredInstance struct{ Name, Site, Vault, Key string }

// writeFleet writes the fleet directory: the product with its release pinned to the very programs that were built,
// one file for each customer, and a recovery plan for the site that will be lost.
func (d *demo) writeFleet(ctx context.Context) error {
	for _, folder := range []string{"instances", "keys"} {
		if err := os.MkdirAll(filepath.Join(d.fleet, folder), 0o700); err != nil {
			return err
		}
	}
	all := declared{Domain: domain, Lost: lostSite, Surviving: survivingSite, Expect: len(d.lost())}
	if err := d.pin(&all); err != nil {
		return err
	}
	for _, c := range d.customers {
		i := declaredInstance{Name: c.Instance, Site: c.site, Vault: survivingSite + "-vault", Key: "keys/" + c.Instance + ".asc"}
		if c.site == survivingSite {
			i.Vault = lostSite + "-vault"
		}
		if err := d.makeKey(ctx, i); err != nil {
			return err
		}
		if err := d.fill("instance.yaml.tmpl", filepath.Join("instances", c.Instance+".yaml"), i); err != nil {
			return err
		}
	}
	for _, file := range []string{"sites.yaml", "product.yaml", "recovery.yaml"} {
		if err := d.fill(file+".tmpl", file, all); err != nil {
			return err
		}
	}
	return nil
}

// makeKey makes the customer's own key pair. The private half goes to a folder that stands for the people who keep
// it; nothing of Holdfast is given that folder.
func (d *demo) makeKey(ctx context.Context, i declaredInstance) error {
	people := filepath.Join(d.lab.Dir, "keys-of-the-people")
	if err := os.MkdirAll(people, 0o700); err != nil {
		return err
	}
	_, err := d.lab.Run(ctx, "vault", "keys", "new", "--name", i.Name, "--public", filepath.Join(d.fleet, i.Key), "--secret", filepath.Join(people, i.Name+".asc"))
	return err
}

// pin gives the release the programs' paths and digests.
func (d *demo) pin(all *declared) error {
	var err error
	all.API, all.Worker = filepath.Join(d.bin, "notes-api"), filepath.Join(d.bin, "notes-worker")
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

func (d *demo) fill(name, target string, data any) error {
	t, err := template.ParseFS(fleetFiles, "fleet/"+name)
	if err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(d.fleet, target))
	if err != nil {
		return err
	}
	if err := t.Execute(f, data); err != nil {
		_ = f.Close() // the first error counts
		return fmt.Errorf("write %s: %w", target, err)
	}
	return f.Close()
}

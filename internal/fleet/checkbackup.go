package fleet

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strconv"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
)

// checkBackup: an instance that keeps something can be brought back when its site is lost, by somebody.
func (r *reader) checkBackup(i Instance, p Product) {
	for n, file := range i.Backup.Recipients {
		r.checkRecipient(i, []string{"backup", "recipients", strconv.Itoa(n)}, file)
	}
	if len(p.Holdfast.State) == 0 {
		return
	}
	settings := r.fleet.settings(i)
	values := r.fleet.effective(i)
	b, err := policy(values)
	if err != nil {
		return // the schema refuses what cannot be read
	}
	if b.RPO < b.Every {
		r.wrongSetting(i, settings["backup.rpo"][0], "back up at least every "+FormatDuration(b.RPO)+", or promise "+FormatDuration(b.Every)+" and more",
			"an rpo of %s cannot be kept with a backup every %s", FormatDuration(b.RPO), FormatDuration(b.Every))
	}
	if !b.Custodian && len(i.Backup.Recipients) == 0 {
		r.wrong(i.Origin, []string{"backup"}, "add `recipients: [keys/"+i.Name+".asc]`, `custodian: true`, or both", "nobody could read its backups")
	}
	r.checkVault(i, settings, b.Vault)
}

// wrongSetting notes something about an instance at the layer that gave a setting.
func (r *reader) wrongSetting(i Instance, given Given, hint, format string, args ...any) {
	o := Origin{File: given.File, Line: given.Line, subject: i.subject}
	if given.File == "" {
		o = Origin{File: i.File, Line: i.line([]string{"backup"}), subject: i.subject}
	}
	r.wrong(o, nil, hint, format, args...)
}

// checkVault: there is one, and it does not burn down with the instance.
func (r *reader) checkVault(i Instance, settings map[string][]Given, vault string) {
	if vault == "" {
		r.wrong(i.Origin, []string{"backup"}, "add `backup: {vault: NODE}` here, to its ring, site or product", "has no vault for its backups")
		return
	}
	given := settings["backup.vault"][0]
	o := Origin{File: given.File, Line: given.Line, subject: i.subject}
	n, ok := r.declaredNode(o, nil, vault)
	if !ok {
		return
	}
	if len(n.Roles) > 0 && !slices.Contains(n.Roles, RoleVault) {
		r.wrong(o, nil, "write a node with role vault, or give it the role", "node %s has not the role vault", vault)
	}
	if n.Site == i.Placement.Site {
		r.wrong(o, nil, "write a vault in another site", "its vault %s stands in its own site %s and would be lost with it", vault, n.Site)
	}
}

// checkRecipient reads a public key, so that a backup never finds out first that it cannot be encrypted.
func (r *reader) checkRecipient(i Instance, at []string, file string) {
	content, ok := r.inFleet(file)
	if !ok {
		r.wrong(i.Origin, at, "put the armored public key there (gpg --armor --export); its name ends with .asc", "recipient %s is not in the fleet", file)
		return
	}
	if err := publicKey(content); err != nil {
		r.wrong(i.Origin, at, "export it with gpg --armor --export KEY", "recipient %s %s", file, err)
		return
	}
	r.fleet.keys[path.Clean(file)] = string(content)
}

// publicKey refuses what a backup cannot be encrypted to, and what must never be in a repository.
func publicKey(content []byte) error {
	ring, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(content))
	if err != nil || len(ring) == 0 {
		return fmt.Errorf("is not an armored OpenPGP public key")
	}
	for _, entity := range ring {
		if entity.PrivateKey != nil {
			return fmt.Errorf("holds a private key: take it out of the repository and out of its history")
		}
		if _, ok := entity.EncryptionKey(entity.PrimaryKey.CreationTime.Add(time.Second)); !ok {
			return fmt.Errorf("is a key that nothing can be encrypted to")
		}
	}
	return nil
}

package app

import (
	"context"
	"errors"
	"net/url"
	"time"

	"golang.org/x/crypto/ssh"

	"holdfast/internal/agent"
	"holdfast/internal/problem"
	"holdfast/internal/step"
	"holdfast/internal/vault"
	"holdfast/internal/vault/disk"
	"holdfast/internal/vault/sftp"
)

// openStore reaches a repository as a node does: over SFTP with the node's own key, or in a folder that is mounted here.
func openStore(key ssh.Signer) agent.OpenStore {
	return func(ctx context.Context, repository step.Repository) (vault.Store, error) {
		at, err := url.Parse(repository.URL)
		if err != nil {
			return nil, problem.Wrap(err, problem.Invalid, "", "repository was not opened: its address cannot be read")
		}
		switch at.Scheme {
		case "":
			return disk.Open(repository.URL), nil
		case "sftp":
			return openSFTP(ctx, at, key, repository.HostKey)
		}
		return nil, problem.New(problem.Invalid, "", "repository %s was not opened: this agent knows sftp:// and folders", at.Redacted())
	}
}

func openSFTP(ctx context.Context, at *url.URL, key ssh.Signer, hostKey string) (vault.Store, error) {
	known, _, _, _, err := ssh.ParseAuthorizedKey([]byte(hostKey))
	if err != nil {
		return nil, problem.Wrap(err, problem.Invalid, "", "repository %s was not opened: the host key of its vault cannot be read", at.Redacted())
	}
	store, err := untilGranted(ctx, sftp.Config{
		Addr: at.Host, User: at.User.Username(), Path: at.Path, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)},
		HostKey: ssh.FixedHostKey(known), HostKeyAlgorithms: []string{known.Type()},
	})
	if err != nil {
		return nil, problem.Wrap(err, problem.Unreachable, "holdfast get nodes", "repository %s was not opened", at.Redacted())
	}
	return store, nil
}

// How long a login that is refused is tried again: the server tells the vault and the node at the same time, and the
// node may be the first to hear.
const (
	grantWithin = 5 * time.Second
	grantEvery  = 50 * time.Millisecond
)

// untilGranted opens the store, and goes on asking for a while as long as the vault refuses the login.
func untilGranted(ctx context.Context, config sftp.Config) (vault.Store, error) {
	for end := time.Now().Add(grantWithin); ; {
		store, err := sftp.Open(ctx, config)
		if err == nil {
			return store, nil
		}
		if !errors.Is(err, vault.ErrDenied) || time.Now().After(end) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(grantEvery):
		}
	}
}

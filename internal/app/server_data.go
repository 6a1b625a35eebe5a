//go:build !slim

package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"holdfast/internal/access"
	"holdfast/internal/api"
	"holdfast/internal/audit"
	"holdfast/internal/db"
	"holdfast/internal/problem"
)

// lockData makes the data folder and holds its lock, so that two servers never share one.
func (s *Server) lockData() error {
	data, err := filepath.Abs(s.settings.Data) // its path is printed, and read from other folders
	if err != nil {
		return fmt.Errorf("find the data folder: %w", err)
	}
	s.settings.Data = data
	if err := os.MkdirAll(s.settings.Data, 0o700); err != nil {
		return problem.Wrap(err, problem.Usage, "choose another folder with --data", "server was not started: data folder was not made")
	}
	file, err := os.OpenFile(filepath.Join(s.settings.Data, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return problem.Wrap(err, problem.Usage, "choose another folder with --data", "server was not started: data folder cannot be written")
	}
	s.closers = append(s.closers, file.Close)
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return problem.New(problem.Busy, "stop the other one, or choose another folder with --data", "server was not started: another server uses the data folder %s", s.settings.Data)
	}
	if err != nil {
		return fmt.Errorf("lock data folder %s: %w", s.settings.Data, err)
	}
	return nil
}

// adminFile is the context file of the first admin, beside the database it opens.
const adminFile = "admin.json"

// firstAdmin makes the first admin token in a database that has no token yet, prints it once, and keeps it in a
// context file that only the server's user can read.
func (s *Server) firstAdmin(ctx context.Context, people io.Writer) error {
	path := filepath.Join(s.settings.Data, adminFile)
	text, err := s.makeFirstAdmin(ctx, path)
	if err != nil {
		return err
	}
	if text == "" {
		return s.refreshAdminFile(path)
	}
	_, err = fmt.Fprintf(people, firstWords, s.URL(), text, access.Fingerprint(s.keys.Authority.Certificate), api.EnvContext, path)
	return err
}

const firstWords = `holdfast: this is a new control plane at %s
  admin token (shown this once): %s
  its authority:                 %s
  next: export %s=%s
`

// makeFirstAdmin writes the context file before it commits: a crash between the two leaves a file with a token that
// is not known, which the next start replaces, and never a server that nobody can enter.
func (s *Server) makeFirstAdmin(ctx context.Context, path string) (text string, err error) {
	ctx = access.With(ctx, access.System())
	err = s.db.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		tokens, err := access.ListTokens(ctx, tx)
		if err != nil || len(tokens) > 0 {
			return err
		}
		var made access.Token
		if text, made, err = access.CreateToken(ctx, tx, "admin", access.Admin, 0); err != nil {
			return err
		}
		if err := s.audit.Append(ctx, tx, audit.Entry{Verb: "create token", Object: "token/admin", Detail: made}); err != nil {
			return err
		}
		return api.NewContext(s.URL(), text, s.keys.Authority.Certificate).Save(path)
	})
	return text, err
}

// refreshAdminFile follows the server to another address. A file that is not there was taken away on purpose.
func (s *Server) refreshAdminFile(path string) error {
	c, err := api.ReadContext(path)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && c.Server == s.URL()) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return api.NewContext(s.URL(), c.Token, s.keys.Authority.Certificate).Save(path)
}

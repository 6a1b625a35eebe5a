//go:build !slim

package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"holdfast/internal/access"
	"holdfast/internal/audit"
	"holdfast/internal/config"
	"holdfast/internal/db"
	"holdfast/internal/kit"
	"holdfast/internal/op"
	"holdfast/internal/problem"
	"holdfast/internal/secret/keeper"
)

// onMachine is who works on the server's own machine, past the API: the operating system's word for them.
func onMachine() access.Actor {
	name := "unknown"
	if me, err := user.Current(); err == nil {
		name = me.Username
	}
	return access.Actor{Name: "machine/" + name, Role: access.Admin}
}

// MachineToken makes an API token on the server's own machine: the way in when every other is lost. It takes the key of
// the secrets and the control database, works beside a server that runs, and is written to the audit log.
func MachineToken(ctx context.Context, settings config.Server, process Process, name string, role access.Role, life time.Duration) (text string, err error) {
	s, err := openExisting(ctx, settings, process)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	ctx = access.With(ctx, onMachine())
	err = s.db.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		var made access.Token
		if text, made, err = access.CreateToken(ctx, tx, name, role, life); err != nil {
			return err
		}
		return s.audit.Append(ctx, tx, audit.Entry{Verb: "create token on the machine", Object: "token/" + name, Detail: made})
	})
	return text, err
}

// openExisting opens the database and the keys of a control plane that exists, and nothing else of it.
func openExisting(ctx context.Context, settings config.Server, process Process) (*Server, error) {
	if err := settings.Check(); err != nil {
		return nil, err
	}
	key, err := keeper.Read(settings.KeyFile, process.Key)
	if err != nil {
		return nil, err
	}
	if settings.Database == "" {
		file := filepath.Join(settings.Data, "control.db")
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			return nil, problem.New(problem.NotFound, "give the --data (and --db) that the server is started with", "there is no control database %s", file)
		}
	}
	s := &Server{settings: settings, version: process.Version}
	if err := s.openKeys(ctx, key); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// openKeys opens the database, the data key and all that is sealed with it.
func (s *Server) openKeys(ctx context.Context, key string) error {
	box, err := s.openDatabase(ctx, key)
	if err != nil {
		return err
	}
	s.box = box
	if s.keys, err = access.OpenKeys(ctx, s.db, box); err != nil {
		return fmt.Errorf("open the server's keys: %w", err)
	}
	s.audit, err = audit.New(s.keys)
	return err
}

// Rebuilt is what a rebuilt control plane was made of.
type Rebuilt struct {
	File string    `json:"file"` // the kit that was taken; "" = none
	Kit  kit.About `json:"kit"`
	Left []error   `json:"-"` // kits that did not open
}

// Rebuild makes the control database of a server that was lost: of the newest of the kits, or with keys of its own when
// there is none. The server started on it says nothing to nodes before it has adopted what they hold.
func Rebuild(ctx context.Context, settings config.Server, process Process, kits map[string][]byte) (made Rebuilt, err error) {
	if err := settings.Check(); err != nil {
		return made, err
	}
	key, err := keeper.Read(settings.KeyFile, process.Key)
	if err != nil {
		return made, err
	}
	s := &Server{settings: settings, version: process.Version}
	defer func() { err = errors.Join(err, s.Close()) }()
	k, err := keeper.Open(ctx, key)
	if err != nil {
		return made, err
	}
	newest, left := kit.Newest(ctx, k, kits)
	if err := k.Close(); err != nil {
		return made, err
	}
	made.Left = left
	if len(kits) > 0 && !newest.Whole() {
		return made, errors.Join(left...)
	}
	if err := s.lockData(); err != nil {
		return made, err
	}
	if err := s.openEmpty(ctx, newest); err != nil {
		return made, err
	}
	if newest.Whole() {
		made.File, made.Kit = newest.File, newest.About()
	}
	return made, s.beginAgain(ctx, key, made)
}

// openEmpty opens a control database that holds nothing, and writes the kit into it.
func (s *Server) openEmpty(ctx context.Context, newest kit.Opened) error {
	if err := s.dial(ctx); err != nil {
		return err
	}
	return s.db.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		keys, err := db.CopyOut(ctx, tx, "secret_keys")
		if err != nil {
			return err
		}
		if len(keys) > 0 {
			return problem.New(problem.Conflict, "holdfast server --data "+s.settings.Data, "nothing was rebuilt: a control plane is in this database already")
		}
		if !newest.Whole() {
			return op.BeginAdopting(ctx, tx)
		}
		return errors.Join(newest.Restore(ctx, tx), op.BeginAdopting(ctx, tx))
	})
}

// beginAgain opens, or makes, the keys, and begins the new audit log with where the old one ended.
func (s *Server) beginAgain(ctx context.Context, key string, made Rebuilt) error {
	if err := s.db.Close(); err != nil { // opened again with its data key
		return err
	}
	s.closers = s.closers[:len(s.closers)-1]
	if err := s.openKeys(ctx, key); err != nil {
		return err
	}
	return s.db.Tx(access.With(ctx, onMachine()), func(ctx context.Context, tx db.Tx) error {
		return s.audit.Append(ctx, tx, audit.Entry{Verb: "rebuild server", Object: "server", Detail: made})
	})
}

// ReadKits reads files that may be kits.
func ReadKits(files []string) (map[string][]byte, error) {
	kits := map[string][]byte{}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, problem.Wrap(err, problem.Usage, "take "+KitName+" from the data directory of a vault's agent", "kit was not read")
		}
		kits[strings.Clone(file)] = raw
	}
	return kits, nil
}

// kitEvery is how soon a changed key, node, token or secret is in a kit.
const kitEvery = 2 * time.Second

// keepKit makes the kit anew whenever something in it has changed, until ctx ends.
func (s *Server) keepKit(ctx context.Context) error {
	for {
		ring := s.db.Doorbell.Wait()
		if _, err := kit.Refresh(ctx, s.db, s.box); err != nil && ctx.Err() == nil {
			s.log.Error("the server's kit was not made", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(kitEvery):
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ring:
		case <-time.After(time.Minute): // another server on the same database rings another bell
		}
	}
}

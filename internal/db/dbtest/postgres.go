package dbtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// cluster is one running PostgreSQL. It lives as long as the test process: its keeper waits for the end of a pipe.
type cluster struct {
	dir  string
	next atomic.Int64
}

// shared is the one cluster of this test process; starting one takes a second or two, so tests share it.
var shared = sync.OnceValues(startCluster) //nolint:gochecknoglobals // as said

// keep runs PostgreSQL until standard input ends, which it does however the test process dies, and cleans up.
const keep = `"$1/postgres" -D "$2/data" -k "$2" >"$2/log" 2>&1 &
cat >/dev/null
kill -QUIT $!
wait
rm -rf "$2"`

const settings = `listen_addresses = ''
max_connections = 200
fsync = off
full_page_writes = off
synchronous_commit = off
autovacuum = off
`

// PostgresDSN names a new empty database, dropped when the test ends. The server is started by the first call.
func PostgresDSN(t testing.TB) string {
	t.Helper()
	c, err := shared()
	if err != nil {
		t.Fatalf("start postgresql: %v", err)
	}
	name := fmt.Sprintf("t%d", c.next.Add(1))
	if err := c.exec("CREATE DATABASE " + name); err != nil {
		t.Fatalf("create database: %v", err)
	}
	t.Cleanup(func() { _ = c.exec("DROP DATABASE " + name + " WITH (FORCE)") })
	return c.dsn(name)
}

func (c *cluster) dsn(name string) string {
	return "postgres:///" + name + "?" + url.Values{"host": {c.dir}, "user": {"holdfast"}}.Encode()
}

func (c *cluster) exec(statement string) error {
	conn, err := sql.Open("pgx", c.dsn("postgres"))
	if err != nil {
		return err
	}
	_, err = conn.Exec(statement)
	return errors.Join(err, conn.Close())
}

func startCluster() (*cluster, error) {
	bin, err := findBinaries()
	if err != nil {
		return nil, err
	}
	owner, err := unprivileged()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "hfpg")
	if err != nil {
		return nil, err
	}
	c := &cluster{dir: dir}
	if err := c.init(bin, owner); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := c.start(bin, owner); err != nil {
		return nil, err
	}
	return c, c.await(30 * time.Second)
}

// findBinaries prefers the folder of the newest PostgreSQL that Debian installed, then PATH.
func findBinaries() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil {
		return "", err
	}
	if len(found) > 0 {
		slices.SortFunc(found, func(a, b string) int { return major(a) - major(b) })
		return filepath.Dir(found[len(found)-1]), nil
	}
	initdb, err := exec.LookPath("initdb")
	if err != nil {
		return "", errors.New("no initdb in /usr/lib/postgresql/*/bin or PATH; install it: apt-get install postgresql")
	}
	return filepath.Dir(initdb), nil
}

func major(path string) int {
	n, _ := strconv.Atoi(strings.Split(path, "/")[4]) // a folder that is not a number sorts first
	return n
}

// unprivileged is whom PostgreSQL runs as: it refuses root, so root lends it the user postgres or nobody.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		account, err = user.Lookup("nobody")
	}
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(account.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(account.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, err
}

func (c *cluster) init(bin string, owner *syscall.Credential) error {
	if owner != nil {
		if err := os.Chown(c.dir, int(owner.Uid), int(owner.Gid)); err != nil {
			return err
		}
	}
	initdb := exec.Command(filepath.Join(bin, "initdb"), "-D", filepath.Join(c.dir, "data"),
		"-U", "holdfast", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	initdb.Dir, initdb.SysProcAttr = c.dir, &syscall.SysProcAttr{Credential: owner}
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	conf, err := os.OpenFile(filepath.Join(c.dir, "data", "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = conf.WriteString(settings)
	return errors.Join(err, conf.Close())
}

// start leaves the write end of the keeper's standard input open for the life of this process.
func (c *cluster) start(bin string, owner *syscall.Credential) error {
	keeper := exec.Command("sh", "-c", keep, "keep", bin, c.dir)
	keeper.Dir = "/"
	// Its own group: Ctrl-C must reach the test first, and the keeper through the end of the pipe.
	keeper.SysProcAttr = &syscall.SysProcAttr{Credential: owner, Setpgid: true}
	if _, err := keeper.StdinPipe(); err != nil {
		return err
	}
	if err := keeper.Start(); err != nil {
		return fmt.Errorf("start postgres: %w", err)
	}
	go func() { _ = keeper.Wait() }() // ends with the process; nothing is left to tell its error to
	return nil
}

// await polls until the server answers.
func (c *cluster) await(within time.Duration) error {
	conn, err := sql.Open("pgx", c.dsn("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if err = conn.PingContext(ctx); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			log, _ := os.ReadFile(filepath.Join(c.dir, "log")) // the reason is best told by the server, if it got that far
			return fmt.Errorf("wait for postgres: %w: %s", err, log)
		case <-tick.C:
		}
	}
}

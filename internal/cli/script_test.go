//go:build !slim

package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the scripts run this very program as holdfast.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"holdfast": func() { os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
		"hello":    hello,
	})
}

// TestScripts tells what an operator types and sees.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			l, err := net.Listen("tcp", "127.0.0.1:0") // a port for the script's own sshd
			if err != nil {
				return err
			}
			defer l.Close()
			env.Setenv("SSH_PORT", strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
			env.Setenv("TZ", "UTC")
			env.Setenv("XDG_CONFIG_HOME", env.WorkDir+"/config")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"await": awaitFile, "exits": exits, "isjson": isJSON, "until": until},
	})
}

// hello is a customer's whole stack: it answers every request at LISTEN, and says that it is ready.
func hello() {
	server := &http.Server{Addr: os.Getenv("LISTEN"), ReadHeaderTimeout: time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") })}
	fmt.Fprintln(os.Stderr, server.ListenAndServe())
	os.Exit(1)
}

// until runs a command again and again until its output holds a text: "until running holdfast get instances".
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until TEXT COMMAND...")
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(90 * time.Second); time.Now().Before(deadline); <-tick.C {
		if err := ts.Exec(args[1], args[2:]...); err == nil && strings.Contains(ts.ReadFile("stdout"), args[0]) {
			return
		}
	}
	ts.Fatalf("%q never said %q", args[1:], args[0])
}

// awaitFile waits until a file exists: "await data/admin.json".
func awaitFile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: await FILE")
	}
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(ts.MkAbs(args[0])); !errors.Is(err, fs.ErrNotExist) {
			ts.Check(err)
			return
		}
		select {
		case <-deadline:
			ts.Fatalf("%s did not appear", args[0])
		case <-tick.C:
		}
	}
}

// exits runs a command and wants its exit code: "exits 12 holdfast vault restore ...".
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARG...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	err = ts.Exec(args[1], args[2:]...)
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		code, err = failed.ExitCode(), nil
	}
	ts.Check(err)
	if code != want {
		ts.Fatalf("%q ended with exit code %d, want %d\n%s%s", args[1:], code, want, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
}

// isJSON wants that standard output is one JSON value, and nothing else.
func isJSON(ts *testscript.TestScript, neg bool, args []string) {
	text := ts.ReadFile("stdout")
	if json.Valid([]byte(text)) == neg || len(args) > 0 {
		ts.Fatalf("standard output is not what a machine reads:\n%s", text)
	}
}

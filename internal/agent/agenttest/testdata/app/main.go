// Command app is the service that engine and lifecycle tests run: it keeps lines in a file, answers probes, and
// misbehaves on request.
package main

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		log.Fatal("app: serve, dump, load, echo, env, fail or hang")
	}
	switch os.Args[1] {
	case "serve":
		serve()
	case "dump": // dump FILE: to standard output
		must(copyAll(os.Stdout, open(os.Args[2])))
	case "load": // load FILE: from standard input
		must(os.MkdirAll(filepath.Dir(os.Args[2]), 0o755))
		file, err := os.Create(os.Args[2])
		must(err)
		must(copyAll(file, os.Stdin))
		must(file.Close())
	case "echo":
		must(copyAll(os.Stdout, os.Stdin))
	case "env":
		fmt.Print(os.Getenv(os.Args[2]))
	case "fail":
		fmt.Fprintln(os.Stderr, "it cannot be done")
		os.Exit(3)
	case "hang":
		for {
			time.Sleep(time.Hour)
		}
	case "append": // append FILE TEXT
		appendLine(os.Args[2], os.Args[3])
	}
}

// serve listens on LISTEN; STATE is its folder, WAIT the time until it is ready, ASK a URL that it asks first.
func serve() {
	state, begun, id := os.Getenv("STATE"), time.Now(), rand.Text()
	wait, _ := time.ParseDuration(os.Getenv("WAIT"))
	if url := os.Getenv("ASK"); url != "" {
		answer := "unready"
		if resp, err := http.Get(url); err == nil && resp.StatusCode == http.StatusOK {
			answer = "ready"
		}
		must(os.WriteFile(filepath.Join(state, "asked"), []byte(answer), 0o600))
	}
	fmt.Println("app starts as", id)
	go onTerminate(state)
	mux := http.NewServeMux()
	mux.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) {
		if time.Since(begun) < wait {
			http.Error(w, "still starting", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/alive", func(w http.ResponseWriter, _ *http.Request) {
		if _, err := os.Stat(filepath.Join(state, "sick")); err == nil {
			http.Error(w, "sick", http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("/id", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, id) })
	mux.HandleFunc("/pid", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, os.Getpid()) })
	mux.HandleFunc("/env", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, os.Getenv(r.FormValue("name"))) })
	mux.HandleFunc("/add", func(_ http.ResponseWriter, r *http.Request) {
		appendLine(filepath.Join(state, "lines"), r.FormValue("line"))
	})
	mux.HandleFunc("/lines", func(w http.ResponseWriter, _ *http.Request) {
		http.ServeFile(w, &http.Request{}, filepath.Join(state, "lines"))
	})
	mux.HandleFunc("/count", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, count(filepath.Join(state, "lines"))) })
	mux.HandleFunc("/exit", func(_ http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.FormValue("code"))
		os.Exit(code)
	})
	mux.HandleFunc("/say", func(_ http.ResponseWriter, r *http.Request) {
		size, _ := strconv.Atoi(r.FormValue("bytes"))
		for n := 0; n*64 < size; n++ {
			fmt.Printf("%063d\n", n)
		}
	})
	mux.HandleFunc("/spawn", func(w http.ResponseWriter, _ *http.Request) {
		child := exec.Command(os.Args[0], "hang")
		must(child.Start())
		fmt.Fprint(w, child.Process.Pid)
	})
	mux.HandleFunc("/hold", func(_ http.ResponseWriter, r *http.Request) {
		size, _ := strconv.Atoi(r.FormValue("mb"))
		held = make([]byte, size<<20)
		for i := 0; i < len(held); i += 4096 {
			held[i] = 1
		}
	})
	log.Fatal(http.ListenAndServe(os.Getenv("LISTEN"), mux))
}

var held []byte

func onTerminate(state string) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	for range signals {
		if os.Getenv("STUBBORN") == "" {
			appendLine(filepath.Join(state, "terminated"), "yes")
			os.Exit(0)
		}
	}
}

func appendLine(path, line string) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(err)
	_, err = fmt.Fprintln(file, line)
	must(err)
	must(file.Sync())
	must(file.Close())
}

func count(path string) int {
	file, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer file.Close()
	lines := 0
	for scan := bufio.NewScanner(file); scan.Scan(); {
		if strings.TrimSpace(scan.Text()) != "" {
			lines++
		}
	}
	return lines
}

func copyAll(to io.Writer, from io.Reader) error {
	_, err := io.Copy(to, from)
	return err
}

func open(path string) *os.File {
	file, err := os.Open(path)
	must(err)
	return file
}

func must(err error) {
	if err != nil {
		log.Fatal("app: ", err)
	}
}

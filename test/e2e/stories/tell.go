package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// event is one line of go test -json.
type event struct {
	Action  string
	Package string
	Test    string
	Elapsed float64
	Output  string
}

// counted is how the stories ended.
type counted struct{ passed, failed, leftOut int }

func (c counted) all() int { return c.passed + c.failed + c.leftOut }

// tell reads events and prints a line as each story ends.
func tell(events io.Reader, out io.Writer) (counted, error) {
	var told counted
	said := map[string][]string{}
	decoder := json.NewDecoder(events)
	for {
		var e event
		if err := decoder.Decode(&e); errors.Is(err, io.EOF) {
			return told, nil
		} else if err != nil {
			return told, fmt.Errorf("read what go test says: %w", err)
		}
		if e.Action == "build-output" {
			if _, err := io.WriteString(out, e.Output); err != nil {
				return told, err
			}
			continue
		}
		story, _, _ := strings.Cut(e.Test, "/")
		key := e.Package + " " + story
		if e.Action == "output" {
			said[key] = append(said[key], e.Output)
		}
		if e.Test != story {
			continue // a part of a story
		}
		line := told.end(e, said[key])
		if line == "" {
			continue
		}
		if _, err := io.WriteString(out, line); err != nil {
			return told, err
		}
		delete(said, key)
	}
}

// end counts the end of a story, or of a package that could not tell any, and returns what is printed of it.
func (c *counted) end(e event, said []string) string {
	name := strings.TrimPrefix(e.Test, "Test")
	switch {
	case e.Action == "fail" && e.Test == "" && !c.silent(said):
		c.failed++
		return fmt.Sprintf("FAIL  %6.1fs  %s\n%s", e.Elapsed, e.Package, strings.Join(said, ""))
	case e.Test == "":
		return ""
	case e.Action == "pass":
		c.passed++
		return fmt.Sprintf("pass  %6.1fs  %s\n", e.Elapsed, name)
	case e.Action == "fail":
		c.failed++
		return fmt.Sprintf("FAIL  %6.1fs  %s\n%s", e.Elapsed, name, strings.Join(said, ""))
	case e.Action == "skip":
		c.leftOut++
		return fmt.Sprintf("left out  %s  %s\n", name, why(said))
	}
	return ""
}

// silent tells whether a package said no more than that it failed: its stories have said why.
func (*counted) silent(said []string) bool {
	for _, line := range said {
		if line != "FAIL\n" && !strings.HasPrefix(line, "FAIL\t") && !strings.HasPrefix(line, "exit status") {
			return false
		}
	}
	return true
}

// why is the reason for which a story was left out.
func why(said []string) string {
	for _, line := range said {
		if _, reason, ok := strings.Cut(line, ".go:"); ok {
			_, reason, _ = strings.Cut(reason, ": ")
			return strings.TrimSpace(reason)
		}
	}
	return ""
}

package load

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"holdfast/examples/dash/dash"
)

// ReadPackages reads a list in the form of Debian's Packages files (also dpkg's status, and what `apt-cache dumpavail`
// says) and gives the facts that keep wants, each package once.
func ReadPackages(in io.Reader, keep func(name string) bool) ([]dash.Fact, error) {
	scanner := bufio.NewScanner(in)
	scanner.Buffer(nil, 1<<20)
	var all []dash.Fact
	seen := map[string]bool{}
	fields := map[string]string{}
	end := func() {
		fact := factOf(fields)
		if fact.Name != "" && fact.Section != "" && !seen[fact.Name] && keep(fact.Name) {
			seen[fact.Name] = true
			all = append(all, fact)
		}
		clear(fields)
	}
	for scanner.Scan() {
		line := scanner.Text()
		if line == "" {
			end()
			continue
		}
		if name, value, ok := strings.Cut(line, ": "); ok && line[0] != ' ' && line[0] != '\t' {
			fields[name] = value
		}
	}
	end()
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("read package list: %w", err)
	}
	return all, nil
}

func factOf(fields map[string]string) dash.Fact {
	kb, err := strconv.ParseInt(fields["Installed-Size"], 10, 64)
	if err != nil {
		kb = 0 // a package may leave it out
	}
	return dash.Fact{Name: fields["Package"], Version: fields["Version"], Section: fields["Section"], InstalledKB: kb, Description: fields["Description"]}
}

// Share tells whether a package is among those that a customer has: about one in every, a different part for each.
func Share(customer string, every int) func(name string) bool {
	return func(name string) bool {
		hash := fnv.New32a()
		_, _ = io.WriteString(hash, customer+"/"+name) // a hash takes everything
		return every <= 1 || hash.Sum32()%uint32(every) == 0
	}
}

// Seed is what an instance is filled with.
type Seed struct {
	Customer   string
	Facts      []dash.Fact
	Dashboards int
	Doubled    bool // two dashboards get one address, which release v4 does not take
}

// Fill gives an instance its seed; to repeat it changes nothing. It gives the entries of its dashboards.
func (t Target) Fill(ctx context.Context, s Seed) ([]Entry, error) {
	var lines bytes.Buffer
	encoder := json.NewEncoder(&lines)
	for _, fact := range s.Facts {
		if err := encoder.Encode(fact); err != nil {
			return nil, err
		}
	}
	if _, err := t.send(ctx, http.MethodPost, t.base+"/facts", lines.Bytes()); err != nil {
		return nil, err
	}
	if _, err := t.send(ctx, http.MethodPut, t.base+"/connections/warehouse", []byte("the password of "+s.Customer)); err != nil {
		return nil, err
	}
	var entries []Entry
	for i := range s.Dashboards {
		e, err := t.fillOne(ctx, s, i)
		if err != nil {
			return entries, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

func (t Target) fillOne(ctx context.Context, s Seed, i int) (Entry, error) {
	sections := sectionsOf(s.Facts)
	if len(sections) == 0 {
		return Entry{}, fmt.Errorf("seed of %s has no facts", s.Customer)
	}
	section := sections[i%len(sections)]
	title := fmt.Sprintf("%s %d", section, i+1)
	if s.Doubled && i == 1 {
		title = strings.ToUpper(fmt.Sprintf("%s %d!", sections[0], 1)) // the address of the first
	}
	var note bytes.Buffer
	for _, fact := range s.Facts {
		if fact.Section == section && note.Len() < 8<<10 {
			fmt.Fprintf(&note, "%s %s: %s\n", fact.Name, fact.Version, fact.Description)
		}
	}
	return t.Put(ctx, fmt.Sprintf("seed-%04d", i+1), title, note.String(), []string{section}, picture(s.Customer+"/"+title, 32<<10))
}

func sectionsOf(facts []dash.Fact) []string {
	var names []string
	for _, fact := range facts {
		names = append(names, fact.Section)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

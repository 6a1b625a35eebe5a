//go:build mutate

package vault_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// mutation takes one check out of the program; the test must go red then.
type mutation struct {
	file  string // below internal/vault
	check string // the condition, as it stands in the file once; where it refuses, it never does any more
	test  string // that must fail, of the package the file is in, or of package vault
}

// always marks a condition that accepts: taken out, it is always met.
const always = "always: "

var mutations = []mutation{
	// The hash in the name of each kind of object.
	{"repository.go", `seal.Name(body) != id`, "TestEveryFlippedBitIsNamed/snapshots"},
	{"envelope.go", `len(hash) != 32 || seal.Name(body)[:32] != hash`, "TestEveryFlippedBitIsNamed/epochs"},
	{"check.go", `hex.EncodeToString(h.Sum(nil)) != path.Base(name)`, "TestEveryFlippedBitIsNamed/packs"},
	{"check.go", `!strings.Contains(string(sums), line)`, "TestEveryFlippedBitIsNamed/root"},
	{"check.go", `string(sums) != want && len(c.report.Findings) == 0`, "TestSumsHaveNoOtherLines"},
	{"opened.go", `seal.Name(body) != path.Base(info.Manifest)`, "TestDamagedManifestIsNamed"},
	// What snapshots need.
	{"check.go", `_, there := c.objects[packFolder][name]; !there {
			c.find`, "TestEveryMissingObjectIsNamed"},
	{"check.go", `!sealed[e]`, "TestEveryMissingObjectIsNamed"},
	{"check.go", `!there {
			c.find(info.Manifest`, "TestEveryMissingObjectIsNamed"},
	{"check.go", `!ok {
			c.find(packFolder+"/"+name, "no index`, "TestOldListingIsNoticed"},
	{"check.go", `there && o.Size != size`, "TestSizesAloneTellOfDamage"},
	{"check.go", `!slices.Equal(proven, listed)`, "TestSnapshotThatHidesWhatItNeeds"},
	{"check.go", `!slices.Contains(s.info.Epochs, e)`, "TestSnapshotThatHidesWhatItNeeds"},
	{"indexing.go", always + `ok && size == p.Size`, "TestDamagedPackIsStoredAgain"},
	// Whose it is.
	{"repository.go", `info.Repository != r.config.ID`, "TestSnapshotOfAnotherRepository"},
	{"keys.go", `key.Repository != r.config.ID || len(key.HashKey) != 32`, "TestWrongKeys"},
	{"keys.go", `epochName(id.Recipient().String()) != got.Epoch`, "TestSwappedEnvelopes"},
	{"envelope.go", `id.Epoch != epoch`, "TestSwappedEnvelopes"},
	{"envelope.go", `e.Revoked(now)`, "TestUnusableKeysAreRefused"},
	{"known.go", `k.Repository != "" && k.Repository != r.config.ID`, "TestFalseRepositoryIsNoticed"},
	{"known.go", always + `len(r.known.Writers) == 0 || slices.ContainsFunc(r.known.Writers, trusted)`, "TestFalseRepositoryIsNoticed"},
	{"known.go", `!slices.ContainsFunc(sealed, open)`, "TestWriterNoticesAnImpostor"},
	{"known.go", always + `k.Newest == ""`, "TestRollbackIsNamed"},
	{"copy.go", `other.config.ID != c.r.config.ID`, "TestCopyLeavesDamageBehind"},
	{"copy.go", `right != nil && !right(name, body)`, "TestCopyLeavesDamageBehind"},
	// Who made it: the keyed hashes and MACs.
	{"internal/pack/reader.go", `!r.keys.MAC("table", data).Equal(want)`, "TestRoundTrip"},
	{"internal/pack/reader.go", `r.hasher.ID(data) != c.ID`, "TestWrongChunksAreRefused"},
	{"internal/pack/reader.go", `err == nil && len(raw) != int(f.Raw)`, "TestWrongChunksAreRefused"},
	{"internal/pack/doc.go", `c.Offset+c.Length > t.Frames[c.Frame].Raw`, "TestChunksStayInTheirFrames"},
	{"internal/tree/read.go", `!got.Equal(all.Sum())`, "TestForgedManifest"},
	{"internal/tree/parse.go", `p == "" || strings.HasPrefix(p, "/") || strings.IndexByte(p, 0) >= 0`, "TestPathsThatClimb"},
	{"internal/tree/parse.go", `p != "." && slices.ContainsFunc(strings.Split(p, "/"), func(s string) bool { return s == ".." || s == "" || s == "." })`, "TestPathsThatClimb"},
	{"coherent.go", `twice && (was != tree.Directory || e.Kind != tree.Directory)`, "TestHostileEntriesStayInside"},
	{"coherent.go", `listed && kind != tree.Directory`, "TestHostileEntriesStayInside"},
	// Locks and prune.
	{"lock.go", always + `err == nil && other == nil`, "TestSecondBackupAtOnceIsRefused"},
	{"lock.go", `note.dead(thisProcess(note.Kind)) || now.Sub(o.Time) > lockLife`, "TestLeaseOfAnotherMachineEnds"},
	{"prune.go", `o.Now.Sub(since) < o.Hold`, "TestHoldingPeriod"},
	{"prune.go", `!s.oldest.IsZero() && !s.oldest.After(since)`, "TestHoldingPeriod"},
	{"prune.go", `needed[name] {
			continue`, "TestNothingNeededGoes"},
	{"prune.go", `_, ok := proven[s.ID]; ok`, "TestNothingNeededGoes"},
	{"prune.go", `left == 0`, "TestNothingNeededGoes"},
	// What a node's key may do.
	{"serve/serve.go", `!h.mayRead(folder, name)`, "TestNodeCannot"},
	{"serve/serve.go", `name == "" || !h.mayRemove(folder)`, "TestNodeCannot"},
	{"serve/serve.go", `folder != "tmp" || !upload.MatchString(name) || !(h.rights.Write || h.rights.Prune)`, "TestNodeCannot"},
}

// inSource says how a condition reads with its switch. The text may begin with a statement before the condition, and
// end with what stands behind it to make it the only one of its kind.
func (m mutation) inSource(number int) (old, changed string) {
	off := fmt.Sprintf(`without == "%d"`, number)
	if accepts, ok := strings.CutPrefix(m.check, always); ok {
		return accepts, "(" + off + " || (" + accepts + "))"
	}
	before, condition := "", m.check
	if i := strings.LastIndex(strings.SplitN(condition, "{", 2)[0], "; "); i >= 0 {
		before, condition = condition[:i+2], condition[i+2:]
	}
	condition, behind, found := strings.Cut(condition, " {\n")
	if found {
		behind = " {\n" + behind
	}
	return m.check, before + "!(" + off + ") && (" + condition + ")" + behind
}

// TestRemovedChecksAreMissed builds the tests once with a switch at every check, and runs for each the test that must
// miss it. With no check switched off all of them pass.
func TestRemovedChecksAreMissed(t *testing.T) {
	programs := build(t, overlay(t))
	for number, m := range mutations {
		t.Run(fmt.Sprintf("%s without %.50q", m.file, strings.TrimPrefix(m.check, always)), func(t *testing.T) {
			t.Parallel()
			program := programs[filepath.Dir(m.file)]
			if out, ok := runOne(t, program, m.test, "none"); !ok {
				t.Fatalf("%s fails with all checks in place:\n%s", m.test, out)
			}
			if out, ok := runOne(t, program, m.test, fmt.Sprint(number)); ok || !strings.Contains(out, "--- FAIL") {
				t.Errorf("%s is not missed by %s:\n%s", m.check, m.test, out)
			}
		})
	}
}

// overlay writes the sources with their switches and returns the file that names them for the compiler.
func overlay(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	sources, replace := map[string]string{}, map[string]string{}
	for number, m := range mutations {
		text, seen := sources[m.file]
		if !seen {
			body, err := os.ReadFile(m.file)
			if err != nil {
				t.Fatal(err)
			}
			text = string(body)
		}
		old, changed := m.inSource(number)
		if seen && !strings.Contains(text, old) || strings.Count(text, old) != 1 {
			t.Fatalf("%s: %q is there %d times, want once", m.file, old, strings.Count(text, old))
		}
		sources[m.file] = strings.Replace(text, old, changed, 1)
	}
	put := func(name, text string) {
		at := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
		if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		whole, err := filepath.Abs(name)
		if err != nil {
			t.Fatal(err)
		}
		replace[whole] = at
	}
	for name, text := range sources {
		put(name, text)
		pkg := strings.Fields(text[strings.Index(text, "\npackage ")+1:])[1]
		put(filepath.Join(filepath.Dir(name), "without_a_check.go"), "package "+pkg+"\n\nimport \"os\"\n\nvar without = os.Getenv(\"VAULT_WITHOUT\")\n")
	}
	body, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, body, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// build compiles the tests of every package that has a mutation; by folder.
func build(t *testing.T, overlay string) map[string]string {
	t.Helper()
	programs := map[string]string{}
	for _, m := range mutations {
		folder := filepath.Dir(m.file)
		if programs[folder] != "" {
			continue
		}
		programs[folder] = filepath.Join(t.TempDir(), "tests")
		if out, err := exec.Command("go", "test", "-c", "-overlay", overlay, "-o", programs[folder], "./"+folder).CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", folder, err, out)
		}
		whole, err := filepath.Abs(folder)
		if err != nil {
			t.Fatal(err)
		}
		programs[folder] += "\x00" + whole
	}
	return programs
}

// runOne runs one test with a check switched off, and tells whether it passed.
func runOne(t *testing.T, program, test, without string) (string, bool) {
	t.Helper()
	file, dir, _ := strings.Cut(program, "\x00")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	pattern := "^" + strings.ReplaceAll(test, "/", "$/^") + "$"
	cmd := exec.CommandContext(ctx, file, "-test.run", pattern, "-test.count", "1", "-test.v", "-test.timeout", "60s")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "VAULT_WITHOUT="+without)
	out, err := cmd.CombinedOutput()
	if err == nil && !strings.Contains(string(out), "--- PASS") {
		t.Fatalf("no test is called %s:\n%s", test, out)
	}
	return string(out), err == nil
}

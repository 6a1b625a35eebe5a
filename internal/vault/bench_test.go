package vault_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/vault"
	"holdfast/internal/vault/vaulttest"
)

// BenchmarkRestoreOfASmallInstance restores 1.4 MB in 21 files from memory: what a customer of the demo has. The
// processor time is the whole process's.
func BenchmarkRestoreOfASmallInstance(b *testing.B) {
	p, src, out := newPlaceIn(b, &vaulttest.Memory{}), b.TempDir(), b.TempDir()
	content := make([]byte, 64<<10)
	random := rand.NewChaCha8([32]byte{})
	for n := range 21 {
		_, _ = random.Read(content) // it never fails
		if err := os.WriteFile(filepath.Join(src, fmt.Sprint(n)), content, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	p.backup(b, vault.Source{Name: "data", Path: src})
	identities := p.identities(b, "latest")
	before, runs := cpu(b), 0
	for b.Loop() {
		runs++
		options := vault.RestoreOptions{Snapshot: "latest", Identities: identities, To: filepath.Join(out, fmt.Sprint(runs)), Verify: true, Delta: true}
		if _, err := p.repo.Restore(b.Context(), options); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/1000/float64(runs), "cpu-ms/op")
}

// cpu is the processor time that this process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

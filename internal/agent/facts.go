package agent

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"holdfast/internal/fleet"
	"holdfast/internal/link"
)

// How often facts are told. A change is told at once, as somebody may be waiting for it behind the edge, and what comes
// with it a little later. Without a change facts are told anyway, as the sign of life that the server goes by.
const (
	factsSoon  = 100 * time.Millisecond
	factsEvery = 5 * time.Second
)

// tellFacts reports the node's facts until ctx ends.
func (a *Agent) tellFacts(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := a.reportFacts(ctx); Broken(err) {
			return err
		} else if err != nil {
			a.Log.Error("facts were not kept", "error", err)
		}
		rest(ctx, factsSoon)
		waitChanged(ctx, a.Spool.changed)
	}
	return nil
}

// waitChanged waits for a change, or for the next sign of life.
func waitChanged(ctx context.Context, changed <-chan struct{}) {
	timer := time.NewTimer(factsEvery)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-changed:
	}
}

func (a *Agent) reportFacts(ctx context.Context) error {
	seq, err := a.Journal.LastSeq(ctx)
	if err != nil {
		return err
	}
	facts := a.facts(ctx)
	facts.Journal = seq
	return a.Spool.add(ctx, entry{replaces: "facts", report: link.Report{At: facts.TakenAt, Facts: &facts}})
}

// facts gathers what every part knows of the node.
func (a *Agent) facts(ctx context.Context) fleet.NodeFacts {
	facts := fleet.NodeFacts{
		Node: a.Identity.Node, Site: a.Self.Site, Roles: a.Self.Roles, Labels: a.Self.Labels, Address: a.Self.Address,
		Capability: link.Capability, Version: a.Version, BootID: a.BootID, Restarts: a.starts,
		SealTo: a.Identity.Unseal.Recipient().String(), SSHKey: authorizedKey(a.Identity.SSH),
		Instances: map[string]fleet.InstanceFacts{}, TakenAt: a.Now(),
	}
	facts.Capacity = machine(a.Dir)
	for _, part := range a.Facts {
		part(ctx, &facts)
	}
	return facts
}

// machine reads what the machine has; what cannot be read stays 0, which no instance fits into.
func machine(dir string) (c fleet.Capacity) {
	c.CPUs = float64(runtime.NumCPU())
	c.MemoryMB = memoryMB()
	var disk unix.Statfs_t
	if unix.Statfs(dir, &disk) == nil {
		c.DiskMB = int64(disk.Blocks) * int64(disk.Bsize) >> 20
		c.DiskFreeMB = int64(disk.Bavail) * int64(disk.Bsize) >> 20
	}
	return c
}

func memoryMB() int64 {
	raw, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	var kB int64
	for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); {
		if _, err := fmt.Sscanf(lines.Text(), "MemTotal: %d kB", &kB); err == nil {
			return kB >> 10
		}
	}
	return 0
}

// authorizedKey is the public half in the form of an authorized_keys file.
func authorizedKey(signer ssh.Signer) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
}

package servers

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"holdfast/internal/problem"
)

// Missing lists, in words, what this machine lacks to run a lab at all. Empty: it can.
func Missing() []string {
	if os.Geteuid() != 0 {
		return []string{"root"}
	}
	var missing []string
	for _, program := range []string{"ip", "nft", "nsenter", "unshare", "losetup", "mkfs.ext4", "debootstrap", "sysctl", "tar", "ssh", "tc"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, "the program "+program)
		}
	}
	if filesystems, err := os.ReadFile("/proc/filesystems"); err == nil && !strings.Contains(string(filesystems), "\toverlay\n") {
		missing = append(missing, "the overlay file system")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		missing = append(missing, "loop devices")
	}
	if _, err := hierarchies(); err != nil {
		missing = append(missing, "control groups")
	}
	return append(missing, missingRights()...)
}

// missingRights tries what a lab does with the kernel, in namespaces that end at once. A container or a subsystem of
// another operating system has root and may not do it.
func missingRights() []string {
	if _, err := exec.LookPath("unshare"); err != nil {
		return nil // said already
	}
	try := exec.Command("unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--fork", "--propagation", "private",
		"sh", "-ec", "mount -t tmpfs tmpfs /mnt; ip link add try0 type veth peer name try1; echo 'table inet a' | nft -f -")
	if said, err := try.CombinedOutput(); err != nil {
		return []string{fmt.Sprintf("the right to make namespaces, mounts and links (%s)", strings.TrimSpace(string(said)))}
	}
	return nil
}

// refusal is what a person reads who has asked for a lab on a machine that cannot run it.
func refusal(missing []string) error {
	next := "make setup, as root on Debian or Ubuntu, on a machine or virtual machine of its own"
	if missing[0] == "root" {
		next = "sudo make lab"
	}
	return problem.New(problem.Unavailable, next, "this machine cannot run a lab of servers: it lacks %s", strings.Join(missing, ", "))
}

// needs is what a server takes, measured: memory when booted with an engine at rest, and room on this machine's disk
// for what it writes in a short life.
const (
	serverMemoryMB = 90
	serverRoomMB   = 400
	baseRoomMB     = 1500
)

// room finds a network for a new lab, and refuses where it would harm the machine or what is there.
func room(ctx context.Context, shape Shape) (netip.Prefix, error) {
	if err := roomFor(len(shape.all())); err != nil {
		return netip.Prefix{}, err
	}
	if taken := strangers(shape.Name); len(taken) > 0 {
		return netip.Prefix{}, problem.New(problem.Conflict, "holdfast-lab down --name "+shape.Name+", if they are left of a lab; or up with another --name",
			"the lab was not brought up: %s exist already and belong to no lab that is known", strings.Join(taken, ", "))
	}
	routed, err := routes(ctx)
	if err != nil {
		return netip.Prefix{}, err
	}
	return freeNetwork(shape.Network, routed)
}

// roomFor refuses where memory or disk would not do.
func roomFor(servers int) error {
	if have, need := availableMemoryMB(), servers*serverMemoryMB; have > 0 && have < need {
		return problem.New(problem.Unavailable, "declare fewer servers, or end something else",
			"the lab was not brought up: %d servers take about %d MB of memory and %d MB are available", servers, need, have)
	}
	if err := os.MkdirAll(stateDir(), 0o755); err != nil {
		return fmt.Errorf("make folder of labs: %w", err)
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(stateDir(), &fs); err != nil {
		return fmt.Errorf("look how much room %s has: %w", stateDir(), err)
	}
	if have, need := int(fs.Bavail*uint64(fs.Bsize)>>20), servers*serverRoomMB+baseRoomMB; have < need {
		return problem.New(problem.Unavailable, "HOLDFAST_LAB_DIR=DIR holdfast-lab up, with DIR on a larger disk",
			"the lab was not brought up: %d servers take about %d MB of disk and %s has %d MB", servers, need, stateDir(), have)
	}
	return nil
}

// availableMemoryMB is what the kernel says can be taken without swapping; 0 when it does not say.
func availableMemoryMB() int {
	raw, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for _, line := range strings.Split(string(raw), "\n") {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "MemAvailable:" {
			kB, err := strconv.Atoi(fields[1])
			if err == nil {
				return kB >> 10
			}
		}
	}
	return 0
}

// strangers lists things that carry the lab's name though no lab of the name is known.
func strangers(name string) []string {
	l := layout{Shape{Name: name}}
	found, err := filepath.Glob(namespacePath(l.namespace("*")))
	if err != nil {
		return nil // the pattern is good
	}
	if _, err := os.Stat(filepath.Join("/sys/class/net", l.hostLink())); err == nil {
		found = append(found, "link "+l.hostLink())
	}
	return found
}

// routes lists the networks that this machine routes already, the default route aside.
func routes(ctx context.Context) ([]netip.Prefix, error) {
	raw, err := output(ctx, "ip", "-4", "-j", "route", "show", "table", "all")
	if err != nil {
		return nil, err
	}
	var entries []struct {
		Destination string `json:"dst"`
	}
	if err := json.Unmarshal(raw, &entries); err != nil {
		return nil, fmt.Errorf("read this machine's routes: %w", err)
	}
	var routed []netip.Prefix
	for _, entry := range entries {
		if prefix, err := netip.ParsePrefix(entry.Destination); err == nil {
			routed = append(routed, prefix)
		} else if address, err := netip.ParseAddr(entry.Destination); err == nil {
			routed = append(routed, netip.PrefixFrom(address, 32))
		}
	}
	return routed, nil
}

// freeNetwork is the wanted network when it is free, or the first free one of those that labs take.
func freeNetwork(wanted netip.Prefix, routed []netip.Prefix) (netip.Prefix, error) {
	if wanted.IsValid() {
		if by, taken := overlapping(wanted, routed); taken {
			return netip.Prefix{}, problem.New(problem.Conflict, "up without --network, or with one that `ip route` does not show",
				"the lab was not brought up: this machine routes %s already, which overlaps %s", by, wanted)
		}
		return wanted, nil
	}
	for n := 70; n < 120; n++ {
		network := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n), 0, 0}), 16)
		if _, taken := overlapping(network, routed); !taken {
			return network, nil
		}
	}
	return netip.Prefix{}, problem.New(problem.Conflict, "holdfast-lab up --network 10.200.0.0/16",
		"the lab was not brought up: this machine routes all of 10.70.0.0/16 to 10.119.0.0/16 already")
}

func overlapping(network netip.Prefix, routed []netip.Prefix) (netip.Prefix, bool) {
	for _, other := range routed {
		if other.Bits() > 0 && other.Overlaps(network) {
			return other, true
		}
	}
	return netip.Prefix{}, false
}

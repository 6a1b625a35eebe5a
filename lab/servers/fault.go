package servers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"holdfast/internal/problem"
)

// Start gives the server power and returns when it has booted: its disk is as it was left. A server that is on is left
// alone, and one that never ran gets an empty disk.
func (s *Server) Start(ctx context.Context) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	if err := s.switchOn(ctx); err != nil {
		return err
	}
	return s.waitBooted(ctx)
}

// Kill takes the server's power, at once.
func (s *Server) Kill(ctx context.Context) error { return s.switchOff(ctx) }

// ShutDown ends the server as its power button does.
func (s *Server) ShutDown(ctx context.Context) error { return s.shutDown(ctx) }

// Reboot kills the server and starts it again.
func (s *Server) Reboot(ctx context.Context) error {
	if err := s.Kill(ctx); err != nil {
		return err
	}
	return s.Start(ctx)
}

// Wipe takes the server's power and its disk: what Start starts then is a new machine of the same name.
func (s *Server) Wipe(ctx context.Context) error {
	if err := s.switchOff(ctx); err != nil {
		return err
	}
	if err := os.Remove(s.disk()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("wipe %s: %w", s.Name, err)
	}
	return nil
}

// prepare makes the disk of a server that has none, and what it is given on it.
func (s *Server) prepare(ctx context.Context) error {
	if _, err := os.Stat(s.disk()); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	files, err := s.firstFiles()
	if err != nil {
		return err
	}
	if err := s.sow(files); err != nil {
		return err
	}
	half := s.disk() + ".half"
	if err := errors.Join(os.RemoveAll(half), os.WriteFile(half, nil, 0o600), os.Truncate(half, int64(s.DiskMB)<<20)); err != nil {
		return fmt.Errorf("make disk of %s: %w", s.Name, err)
	}
	// Nothing is kept for root, so that a full disk is full for everyone.
	if err := run(ctx, "mkfs.ext4", "-q", "-m", "0", "-J", "size=8", half); err != nil {
		return err
	}
	return os.Rename(half, s.disk())
}

// firstFiles is what the server is given on an empty disk.
func (s *Server) firstFiles() ([]File, error) {
	return s.ground()
}

// Cut takes a site's way to everything outside it; inside it all goes on. Of a server it takes the link.
func (l *Lab) Cut(ctx context.Context, place string) error {
	i := l.siteIndex(place)
	if i < 0 {
		return l.plug(ctx, place, "down")
	}
	site := l.siteNetwork(i)
	return l.drop(ctx, tableOf(place), fmt.Sprintf("ip saddr %s drop; ip daddr %s drop;", site, site))
}

// CutBetween takes the way between two sites and leaves each its others.
func (l *Lab) CutBetween(ctx context.Context, a, b string) error {
	i, k := l.siteIndex(a), l.siteIndex(b)
	if i < 0 || k < 0 || i == k {
		return l.noPlace(a + " and " + b)
	}
	from, to := l.siteNetwork(i), l.siteNetwork(k)
	return l.drop(ctx, tableOf(a, b), fmt.Sprintf("ip saddr %s ip daddr %s drop; ip saddr %s ip daddr %s drop;", from, to, to, from))
}

// Heal gives a site or a server its way back, whatever was taken of it. It is not an error when nothing was.
func (l *Lab) Heal(ctx context.Context, place string) error {
	if l.siteIndex(place) < 0 {
		return l.plug(ctx, place, "up")
	}
	if err := l.Slow(ctx, place, 0); err != nil {
		return err
	}
	cuts, err := l.cuts(ctx)
	if err != nil {
		return err
	}
	for _, cut := range cuts {
		if !slices.Contains(cut, place) {
			continue
		}
		if err := l.nft(ctx, "delete table inet "+tableOf(cut...)); err != nil {
			return err
		}
	}
	return nil
}

// Slow limits the way of a site to everything outside it, in each direction; 0 takes the limit away. What comes faster
// waits up to two seconds and is lost then.
func (l *Lab) Slow(ctx context.Context, site string, mbit int) error {
	if l.siteIndex(site) < 0 {
		return l.noPlace(site)
	}
	ends := []end{{namespace: l.core(), name: site}, {namespace: l.router(site), name: "wan"}}
	for _, e := range ends {
		if err := shape(ctx, e, mbit); err != nil {
			return err
		}
	}
	return nil
}

// shape limits what leaves one end of a link.
func shape(ctx context.Context, e end, mbit int) error {
	if mbit > 0 {
		return run(ctx, "tc", "-n", e.namespace, "qdisc", "replace", "dev", e.name, "root", "tbf", "rate", fmt.Sprintf("%dmbit", mbit), "burst", "256kb", "latency", "2s")
	}
	set, err := output(ctx, "tc", "-n", e.namespace, "qdisc", "show", "dev", e.name)
	if err != nil || !strings.Contains(string(set), "qdisc tbf") {
		return err
	}
	return run(ctx, "tc", "-n", e.namespace, "qdisc", "del", "dev", e.name, "root")
}

// cuts lists the sites that are cut off, each alone, and the pairs that are cut from each other.
func (l *Lab) cuts(ctx context.Context) ([][]string, error) {
	raw, err := output(ctx, "ip", "netns", "exec", l.core(), "nft", "list", "tables")
	if err != nil {
		return nil, err
	}
	var cuts [][]string
	for _, line := range strings.Split(string(raw), "\n") {
		if sites, ok := strings.CutPrefix(line, "table inet cut/"); ok {
			cuts = append(cuts, strings.Split(sites, "/"))
		}
	}
	return cuts, nil
}

// tableOf names the core's rules for a site that is cut off, or for two.
func tableOf(sites ...string) string { return "cut/" + strings.Join(sites, "/") }

// drop makes the core lose packets. A table that is there already is replaced.
func (l *Lab) drop(ctx context.Context, table, rules string) error {
	return l.nft(ctx, fmt.Sprintf("table inet %s\ndelete table inet %s\ntable inet %s {\n chain cut { type filter hook forward priority -200; policy accept; %s }\n}\n",
		table, table, table, rules))
}

func (l *Lab) nft(ctx context.Context, rules string) error {
	return runWith(ctx, strings.NewReader(rules), "ip", "netns", "exec", l.core(), "nft", "-f", "-")
}

// plug sets the port of a server at its site's router, also for the times that it has power again.
func (l *Lab) plug(ctx context.Context, name, state string) error {
	s, err := l.Server(name)
	if err != nil {
		return l.noPlace(name)
	}
	if state == "down" {
		err = os.WriteFile(s.unplugged(), nil, 0o600)
	} else if err = os.Remove(s.unplugged()); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil || !s.On() {
		return err
	}
	return run(ctx, "ip", "-n", l.router(s.Site), "link", "set", name, state)
}

func (l *Lab) noPlace(name string) error {
	return problem.New(problem.NotFound, "holdfast-lab status --name "+l.Name, "nothing was cut or healed: lab %s has no site or server %s", l.Name, name)
}

func (l layout) siteIndex(name string) int {
	return slices.IndexFunc(l.Sites, func(s Site) bool { return s.Name == name })
}

package servers

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// build makes what is missing of the lab's network and leaves what is there.
func (l layout) build(ctx context.Context) error {
	var fresh []string
	for _, namespace := range l.namespaces() {
		if _, err := os.Stat(namespacePath(namespace)); err == nil {
			continue
		}
		if err := run(ctx, "ip", "netns", "add", namespace); err != nil {
			return err
		}
		fresh = append(fresh, namespace)
	}
	if err := l.connect(ctx); err != nil {
		return err
	}
	settings := l.settings()
	for _, namespace := range slices.Sorted(maps.Keys(settings)) {
		if err := batch(ctx, namespace, settings[namespace]); err != nil {
			return err
		}
	}
	return l.forward(ctx, fresh)
}

func namespacePath(namespace string) string { return filepath.Join("/run/netns", namespace) }

// connect adds the links and bridges that are missing.
func (l layout) connect(ctx context.Context) error {
	have, err := l.linksThere(ctx)
	if err != nil {
		return err
	}
	var missing []string
	for _, site := range l.Sites {
		if router := l.router(site.Name); !have[router]["lan"] {
			if err := batch(ctx, router, []string{"link add lan type bridge"}); err != nil {
				return err
			}
		}
	}
	for _, c := range l.cables() {
		if have[c.a.namespace][c.a.name] {
			continue
		}
		from := "link add " + c.a.name
		if c.a.namespace != "" {
			from += " netns " + c.a.namespace
		}
		missing = append(missing, from+" type veth peer name "+c.b.name+" netns "+c.b.namespace)
	}
	return batch(ctx, "", missing)
}

// linksThere lists the links of this machine and of each namespace.
func (l layout) linksThere(ctx context.Context) (map[string]map[string]bool, error) {
	have := map[string]map[string]bool{}
	for _, namespace := range append(l.namespaces(), "") {
		raw, err := output(ctx, "ip", inside(namespace, "-j", "link")...)
		if err != nil {
			return nil, err
		}
		var links []struct {
			Name string `json:"ifname"`
		}
		if err := json.Unmarshal(raw, &links); err != nil {
			return nil, fmt.Errorf("read the links of %q: %w", namespace, err)
		}
		have[namespace] = map[string]bool{}
		for _, link := range links {
			have[namespace][link.Name] = true
		}
	}
	return have, nil
}

// inside puts the namespace before the arguments of an ip command.
func inside(namespace string, args ...string) []string {
	if namespace == "" {
		return args
	}
	return append([]string{"-n", namespace}, args...)
}

// batch runs ip commands in a namespace, one a line.
func batch(ctx context.Context, namespace string, lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	return runWith(ctx, strings.NewReader(strings.Join(lines, "\n")+"\n"), "ip", inside(namespace, "-batch", "-")...)
}

// forward lets the core and the routers pass packets on.
func (l layout) forward(ctx context.Context, fresh []string) error {
	for _, namespace := range fresh {
		if err := run(ctx, "ip", "netns", "exec", namespace, "sysctl", "-qw", "net.ipv4.ip_forward=1"); err != nil {
			return err
		}
	}
	return nil
}

// demolish takes every namespace and link of the lab away. Links end with their namespaces, a while later; the one that
// stands on this machine is taken away first, so that nobody sees it then.
func (l layout) demolish(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join("/sys/class/net", l.hostLink())); err == nil {
		if err := run(ctx, "ip", "link", "del", l.hostLink()); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir("/run/netns")
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("list network namespaces: %w", err)
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), l.namespace("")) {
			continue
		}
		if err := run(ctx, "ip", "netns", "del", entry.Name()); err != nil {
			return err
		}
	}
	return nil
}

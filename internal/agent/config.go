package agent

import (
	"context"
	"log/slog"
	"time"

	"holdfast/internal/fleet"
	"holdfast/internal/link"
)

// Config is what a node's process is made of.
type Config struct {
	Self     Self
	Dir      string // the data directory
	Identity *Identity
	Journal  *Journal
	Spool    *Spool // on the same journal; the parts below write their events to it
	Steps    Steps
	Settings Settings
	Facts    []func(ctx context.Context, facts *fleet.NodeFacts) // each part fills in what it knows; the core does the rest
	BootID   string                                              // of this life of the agent: another one at every start, so that no old setting can be replayed to it
	Version  string
	Now      func() time.Time // nil = time.Now
	Log      *slog.Logger
}

// Settings is who takes which setting. Each is called with the newest document, one call at a time per kind: once at
// the start with the one in the journal, if there is one, and then with every newer one. An error is told as an event
// and the document is offered again at the next start or generation. A nil function ignores its kind.
type Settings struct {
	// Leases is told whether the document was issued for this boot. One that was not may fence, and must not unfence.
	Leases func(ctx context.Context, leases link.LeasesSetting, fresh bool) error
	Routes func(ctx context.Context, routes link.RoutesSetting) error
	Probes func(ctx context.Context, probes link.ProbesSetting) error
	Grants func(ctx context.Context, grants link.GrantsSetting) error
	Kit    func(ctx context.Context, kit link.KitSetting) error
}

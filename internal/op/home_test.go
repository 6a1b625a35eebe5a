package op

import (
	"context"
	"testing"

	"holdfast/internal/db"
	"holdfast/internal/db/dbtest"
	"holdfast/internal/fleet"
)

// Who is taken away by a recovery or a restore keeps its home until a plan puts it somewhere.
func TestHomeOfThoseAway(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		for _, c := range []struct {
			why  string
			node string
			away bool
			home fleet.Place
		}{
			{"a plan places it", "a1", false, fleet.Place{}},
			{"it is restored in place", "a1", true, fleet.Place{}},
			{"a recovery takes it away", "b1", true, fleet.Place{Site: "a", Node: "a1"}},
			{"a plan lets it serve again where it is", "b1", false, fleet.Place{Site: "a", Node: "a1"}},
			{"it is restored in place", "b1", true, fleet.Place{Site: "a", Node: "a1"}},
			{"a second recovery takes it further", "c1", true, fleet.Place{Site: "a", Node: "a1"}},
			{"a plan sends it home", "a2", false, fleet.Place{}},
		} {
			err := d.Tx(t.Context(), func(ctx context.Context, tx db.Tx) error {
				_, err := place(ctx, tx, fleet.Placement{Instance: "acme", Node: c.node, Site: c.node[:1], Slot: "s1"}, c.away)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			p, _, err := PlacementOf(t.Context(), d, "acme")
			if err != nil || p.Home != c.home || p.Node != c.node {
				t.Errorf("%s: it is on %s, away from %+v, want %+v (%v)", c.why, p.Node, p.Home, c.home, err)
			}
		}
	})
}

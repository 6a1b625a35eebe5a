package main

import (
	"encoding/json"
	"strings"
	"testing"

	"holdfast/internal/recovery"
)

// The demo ends with 0 after a pass and after nothing else. The scorecards are ones that recovery itself would write.
func TestTheExitCodeFollowsTheVerdict(t *testing.T) {
	for verdict, why := range map[string]string{"pass": "", "fail": "acme: 3 of 4 documents", "unknown": "nobody looked", "": ""} {
		raw, err := json.Marshal(recovery.Scorecard{Verdict: verdict, Reasons: []string{why}})
		if err != nil {
			t.Fatal(err)
		}
		card, err := readCard(raw)
		if err != nil {
			t.Fatal(err)
		}
		held := card.held()
		if (held == nil) != (verdict == "pass") || held != nil && !strings.Contains(held.Error(), why) {
			t.Errorf("verdict %q: %v", verdict, held)
		}
	}
	if _, err := readCard([]byte("holdfast: no such drill")); err == nil {
		t.Error("text that is no scorecard was read as one")
	}
}

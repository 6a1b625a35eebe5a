package server_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/internal/access"
	"holdfast/internal/fleet"
	"holdfast/internal/recovery"
	"holdfast/internal/server"
)

// withPlan is a bench whose world has one recovery plan, over one instance in a lost site that can be rebuilt.
func withPlan(t *testing.T) *bench {
	t.Helper()
	b := open(t)
	node := func(site string, roles ...fleet.Role) fleet.NodeFacts {
		return fleet.NodeFacts{Node: site, Site: site, Roles: roles, SeenAt: time.Now(), Capacity: fleet.Capacity{MemoryMB: 4096, DiskMB: 9000, DiskFreeMB: 9000}}
	}
	world := recovery.World{
		Fleet: &fleet.Fleet{
			Sites:     map[string]fleet.Site{"par1": {}, "ams1": {}},
			Instances: map[string]fleet.Instance{"acme": {Name: "acme"}},
			RecoveryPlans: map[string]fleet.RecoveryPlan{"lose-par1": {
				Name: "lose-par1", Scenario: fleet.SiteLost, Lost: "par1", Scope: fleet.RecoveryScope{Expect: 1}, Fault: fleet.RecoveryFault{Kind: "kill", For: time.Minute}}},
		},
		Inventory: fleet.Inventory{
			Placements: map[string]fleet.Placement{"acme": {Instance: "acme", Node: "par1", Site: "par1", Epoch: 1}},
			Nodes:      map[string]fleet.NodeFacts{"par1": node("par1", fleet.RoleRun), "ams1": node("ams1", fleet.RoleSpare, fleet.RoleVault, fleet.RoleEdge), "out1": node("out1", fleet.RoleProbe)},
		},
		Specs:     map[string]fleet.Spec{"acme": {Instance: "acme", Fingerprint: "f", Invariants: []fleet.Invariant{{Name: "whole"}}}},
		Catalogue: map[string]recovery.Snapshot{"acme": {ID: "s1", Instance: "acme", TakenAt: time.Now(), Vault: "ams1", Custodian: true}},
	}
	lost := world.Inventory.Nodes["par1"]
	lost.Instances = map[string]fleet.InstanceFacts{"acme": {State: fleet.StateRunning}}
	world.Inventory.Nodes["par1"] = lost
	b.parts.Recovery = &recovery.Runner{DB: b.parts.DB, Audit: b.parts.Audit, Log: slog.New(slog.DiscardHandler), World: func(context.Context) (recovery.World, error) { return world, nil }}
	b.parts.Metrics = prometheus.NewRegistry()
	b.handler = server.New(b.parts)
	return b
}

func TestDrillOverHTTP(t *testing.T) {
	b := withPlan(t)
	operator, viewer := b.tokens[access.Operator], b.tokens[access.Viewer]
	var draft recovery.Draft
	decode(t, b, "POST", "/api/v1/drills/draft", viewer, `{"kind":"drill","plan":"lose-par1"}`, &draft)
	if len(draft.Assignments) != 1 || draft.Broken() {
		t.Fatalf("draft %+v", draft)
	}
	var drill struct {
		ID     string           `json:"id"`
		Phase  recovery.Phase   `json:"phase"`
		Events []recovery.Event `json:"events"`
	}
	decode(t, b, "POST", "/api/v1/drills", operator, `{"kind":"drill","plan":"lose-par1","fault":"cut","for":"2m"}`, &drill)
	if drill.Phase != recovery.Arming || len(drill.Events) != 2 {
		t.Fatalf("started %+v", drill)
	}
	decode(t, b, "POST", "/api/v1/drills/"+drill.ID+"/counts", operator, `{"files_expected":3,"files_found":3}`, &drill)
	var card recovery.Scorecard
	decode(t, b, "GET", "/api/v1/drills/"+drill.ID+"/scorecard", viewer, "", &card)
	if card.Verdict != recovery.Fail || card.FilesFound == nil || *card.FilesFound != 3 || card.DetectSeconds != nil {
		t.Errorf("card %+v", card)
	}
	decode(t, b, "POST", "/api/v1/drills/"+drill.ID+"/abort", operator, "{}", &drill)
	var runs []recovery.Run
	decode(t, b, "GET", "/api/v1/drills", viewer, "", &runs)
	if len(runs) != 1 || runs[0].AbortedBy != "token/operator" {
		t.Errorf("list %+v", runs)
	}
}

func decode(t *testing.T, b *bench, method, path, token, body string, into any) {
	t.Helper()
	answer := b.ask(t, method, path, token, body)
	if answer.Code != http.StatusOK {
		t.Fatalf("%s %s: %d %s", method, path, answer.Code, answer.Body)
	}
	if err := json.Unmarshal(answer.Body.Bytes(), into); err != nil {
		t.Fatalf("%s %s: %v in %s", method, path, err, answer.Body)
	}
}

func TestDrillsThatAreRefused(t *testing.T) {
	b := withPlan(t)
	for _, c := range []struct {
		method, path, body string
		role               access.Role
		status             int
		want               string
	}{
		{"POST", "/api/v1/drills", `{"kind":"drill","plan":"lose-par1"}`, access.Viewer, 403, "may not start a drill or a recovery"},
		{"POST", "/api/v1/drills", `{"kind":"drill","plan":"lose-rome"}`, access.Operator, 404, "there is no recovery plan lose-rome"},
		{"POST", "/api/v1/drills", `{"kind":"drill","plan":"lose-par1","for":"soon"}`, access.Operator, 400, `parse duration`},
		{"POST", "/api/v1/drills", `{"kind":"drill","plan":"lose-par1","fault":"fire"}`, access.Operator, 400, `fault \"fire\" is not cut, kill or stop`},
		{"POST", "/api/v1/drills", `{"kind":"party","plan":"lose-par1"}`, access.Operator, 422, `kind`},
		{"GET", "/api/v1/drills/none", "", access.Viewer, 404, "there is no drill or recovery none"},
		{"POST", "/api/v1/drills/none/abort", "{}", access.Operator, 404, "there is no drill or recovery none"},
	} {
		answer := b.ask(t, c.method, c.path, b.tokens[c.role], c.body)
		if answer.Code != c.status || !strings.Contains(answer.Body.String(), c.want) {
			t.Errorf("%s %s %s: %d %s, want %d with %q", c.method, c.path, c.body, answer.Code, answer.Body, c.status, c.want)
		}
	}
}

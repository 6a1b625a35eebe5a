//go:build !slim

package app

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast/internal/access"
	"holdfast/internal/adopt"
	"holdfast/internal/audit"
	"holdfast/internal/backup"
	"holdfast/internal/db"
	"holdfast/internal/fleet"
	"holdfast/internal/link"
	"holdfast/internal/observe"
	"holdfast/internal/op"
	"holdfast/internal/problem"
	"holdfast/internal/secret"
	"holdfast/internal/step"
)

const (
	routeWithin = 2 * time.Minute        // when the step names no time
	routeSoon   = 30 * time.Millisecond  // between the first two questions to an edge; a little longer each time
	routeEvery  = 200 * time.Millisecond // at most
)

// duties is what the server does itself between the steps of nodes.
type duties struct {
	*Server
	observer *observe.Observer
	view     *nodesView
}

// serve gives what op's interpreter calls for the server's own kinds of step.
func (d duties) serve(custodian backup.Custodian) map[step.Kind]op.Served {
	return map[step.Kind]op.Served{
		step.Release: {InTx: custodian.Release},
		step.Adopt:   {InTx: adopt.Adopter{Keys: d.keys, Secrets: d.secrets, Audit: d.audit, Log: d.log}.Adopt},
		step.Route:   {Do: d.route},
		step.Tell:    {Do: d.tell},
	}
}

// keepSecrets takes the secrets of a fetched snapshot that this server does not have; those it has stay as they are.
func (d duties) keepSecrets(ctx context.Context, tx db.Tx, instance string, sealed []byte) error {
	values, err := secret.OpenFrom(d.keys.ReplyTo(), sealed)
	if err != nil {
		d.log.Warn("secrets of a snapshot were not kept", "instance", instance, "err", err)
		return nil // the node said something wrong; that must not undo its other reports
	}
	for name, value := range values {
		err := d.secrets.Put(ctx, tx, instance, secret.Ref{Name: name, Version: 1}, value)
		if err != nil && problem.KindOf(err) != problem.Conflict {
			return err
		}
	}
	return nil
}

// route waits until every edge in reach passes requests for the instance to where it is placed now. It asks as a
// customer does, and the edge tells under which epoch it answered.
func (d duties) route(ctx context.Context, call op.Call) (json.RawMessage, error) {
	var args step.RouteArgs
	if err := json.Unmarshal(call.Step.Args, &args); err != nil {
		return nil, fmt.Errorf("read arguments of step %s: %w", call.Step.ID, err)
	}
	if args.Within == 0 {
		args.Within = routeWithin
	}
	ctx, cancel := context.WithTimeout(ctx, args.Within)
	defer cancel()
	wait := routeWait{duties: d, instance: call.Step.Instance, clients: map[string]*http.Client{}}
	defer wait.close()
	for pause := routeSoon; ; pause = min(pause*5/4, routeEvery) {
		edges, err := wait.passing(ctx)
		if err == nil {
			return json.Marshal(map[string]any{"edges": edges})
		}
		select {
		case <-ctx.Done():
			return nil, problem.Wrap(err, problem.Unavailable, "holdfast get nodes", "%s is not reached through the edge", call.Step.Instance)
		case <-time.After(pause):
		}
	}
}

// routeWait is one instance whose way through the edges is awaited. It keeps its connections and what cannot change
// while it waits: a hundred instances may be waiting at once, on a server that has better to do.
type routeWait struct {
	duties
	instance string
	spec     fleet.Spec
	clients  map[string]*http.Client // by edge
}

// passing names the edges that pass requests to the instance's present place, or says why one does not.
func (w *routeWait) passing(ctx context.Context) (edges []string, err error) {
	placement, _, err := op.PlacementOf(ctx, w.db, w.instance)
	if err != nil {
		return nil, err
	}
	if w.spec.Fingerprint != placement.Spec {
		if w.spec, err = op.SpecOf(ctx, w.db, w.instance, placement.Spec); err != nil {
			return nil, err
		}
	}
	nodes, err := w.view.nodes(ctx, w.observer)
	if err != nil {
		return nil, err
	}
	world := observe.World{Specs: map[string]fleet.Spec{w.instance: w.spec}}
	world.Nodes, world.Placements = nodes, map[string]fleet.Placement{w.instance: placement}
	for _, route := range world.Routes().Routes {
		if edges, err = w.askEdges(ctx, route, nodes); err != nil {
			return nil, err
		}
	}
	return edges, nil
}

func (w *routeWait) askEdges(ctx context.Context, route link.Route, nodes map[string]fleet.NodeFacts) (edges []string, err error) {
	for edge, node := range nodes {
		if !isEdge(node, w.db.Now()) {
			continue
		}
		if len(route.Endpoints) == 0 { // no edge can know more than this
			return nil, errors.New("its node does not say that it serves")
		}
		if err := w.askEdge(ctx, node.EdgeAddr, route.Hosts[0], route.Health, route.Epoch); err != nil {
			return nil, fmt.Errorf("edge %s: %w", edge, err)
		}
		edges = append(edges, edge)
	}
	return edges, nil
}

func isEdge(node fleet.NodeFacts, now time.Time) bool {
	return slices.Contains(node.Roles, fleet.RoleEdge) && node.EdgeAddr != "" && now.Sub(node.SeenAt) < observe.Silent
}

// askEdge asks for the instance's health through one edge.
func (w *routeWait) askEdge(ctx context.Context, edge, host, path string, epoch int64) error {
	if path == "" {
		path = "/"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+path, nil)
	if err != nil {
		return err
	}
	request.Header.Set("X-Holdfast-Probe", "route")
	response, err := w.client(edge).Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10)) // so that the connection can be used again
	if told := response.Header.Get("X-Holdfast-Epoch"); told != strconv.FormatInt(epoch, 10) {
		return fmt.Errorf("it answers %d for epoch %q, and %d is current", response.StatusCode, told, epoch)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %d", response.StatusCode)
	}
	return nil
}

// client dials one edge whatever the name is. Edges with certificates of a public issuer are trusted as well.
func (w *routeWait) client(edge string) *http.Client {
	if known := w.clients[edge]; known != nil {
		return known
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	roots.AddCert(w.keys.Authority.Certificate)
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, network, edge)
	}
	w.clients[edge] = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	}}
	return w.clients[edge]
}

func (w *routeWait) close() {
	for _, client := range w.clients {
		client.CloseIdleConnections()
	}
}

// nodesView is the nodes as all who wait for routes see them: read once for all, and a little old.
type nodesView struct {
	mu  sync.Mutex
	at  time.Time
	all map[string]fleet.NodeFacts
}

func (v *nodesView) nodes(ctx context.Context, observer *observe.Observer) (map[string]fleet.NodeFacts, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if now := time.Now(); now.Sub(v.at) > routeSoon {
		inventory, err := observer.Inventory(ctx)
		if err != nil {
			return nil, err
		}
		v.at, v.all = now, inventory.Nodes
	}
	return v.all, nil
}

// tell sends a communication of a recovery plan: a webhook for an address that is a URL, a mail for one that is a mail
// address, and for every other the record, which is what the status page and the audit show. It may be repeated;
// receivers know it by its id.
func (d duties) tell(ctx context.Context, call op.Call) (json.RawMessage, error) {
	var args step.TellArgs
	if err := json.Unmarshal(call.Step.Args, &args); err != nil {
		return nil, fmt.Errorf("read arguments of step %s: %w", call.Step.ID, err)
	}
	told := told{TellArgs: args}
	for _, to := range args.To {
		if d.mail == nil && isMail(to) {
			told.Unsent = append(told.Unsent, to)
			d.log.Warn("no mail was sent: this server knows no mail server; give it --smtp and --mail-from", "to", to, "event", args.Event)
			continue
		}
		if err := d.tellOne(ctx, to, call.OrderID(), args); err != nil {
			return nil, problem.Wrap(err, problem.Unavailable, "holdfast op show "+call.Operation.ID, "%s was not told that %s", args.Audience, args.Event)
		}
	}
	err := d.db.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		return d.audit.Append(access.With(ctx, access.System()), tx, audit.Entry{Verb: "tell " + args.Audience, Object: "operation/" + call.Operation.ID, Detail: told})
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{"told": args.To, "unsent": told.Unsent})
}

// told is what the record says of a communication.
type told struct {
	step.TellArgs
	Unsent []string `json:"unsent,omitempty"` // mail addresses, where the server knows no mail server
}

func isMail(to string) bool { return strings.Contains(to, "@") && !strings.Contains(to, "://") }

// tellOne sends to one address; one that is neither a URL nor a mail address is only recorded.
func (d duties) tellOne(ctx context.Context, to, id string, args step.TellArgs) error {
	switch {
	case strings.HasPrefix(to, "https://"), strings.HasPrefix(to, "http://"):
		return post(ctx, to, id, args)
	case isMail(to):
		return d.mail.send(ctx, to, id, args)
	}
	return nil
}

func post(ctx context.Context, url, id string, args step.TellArgs) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	body, err := json.Marshal(args)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Idempotency-Key", id)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10)) // only the status counts
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("%s answered %s", url, response.Status)
	}
	return nil
}

package backup

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"pgregory.net/rapid"

	"holdfast/internal/access/accesstest"
	"holdfast/internal/audit"
	"holdfast/internal/db"
	"holdfast/internal/db/dbtest"
	"holdfast/internal/fleet"
	"holdfast/internal/op"
	"holdfast/internal/problem"
	"holdfast/internal/secret"
	"holdfast/internal/step"
	"holdfast/internal/vault"
	"holdfast/internal/vault/disk"
	"holdfast/internal/vault/vaulttest"
)

func TestDueFallsOnceIntoEachInterval(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Plan{Instance: rapid.StringMatching(`[a-z]{1,8}`).Draw(t, "instance"), Every: time.Duration(rapid.IntRange(60, 90000).Draw(t, "every")) * time.Second}
		now := time.Unix(int64(rapid.IntRange(1e9, 2e9).Draw(t, "now")), 0)
		if !p.Due(now) {
			t.Fatal("the first backup is not due at once")
		}
		began, runs := now, 0
		for now.Sub(began) < 10*p.Every {
			if p.Due(now) {
				p.TriedAt, p.DoneAt = now, now
				runs++
				if p.Due(now) {
					t.Fatal("due again at the same moment")
				}
			}
			now = now.Add(p.Every / 40)
		}
		if runs < 10 || runs > 11 {
			t.Fatalf("%d backups in ten intervals", runs)
		}
	})
}

func TestBackupThatDidNotWorkIsTriedAgainSoon(t *testing.T) {
	now := time.Unix(1e9, 0)
	for every, again := range map[time.Duration]time.Duration{time.Minute: time.Minute, time.Hour: 450 * time.Second, 24 * time.Hour: time.Hour} {
		p := Plan{Instance: "acme", Every: every, DoneAt: now.Add(-every), TriedAt: now}
		if p.Due(now.Add(again-time.Second)) || !p.Due(now.Add(again)) {
			t.Errorf("every %s: not due exactly %s after a try that did not work", every, again)
		}
	}
}

func TestTwoHundredBackupsDoNotBeginAtOnce(t *testing.T) {
	now := time.Unix(1e9, 0)
	buckets := map[int64]int{}
	for i := range 200 {
		p := Plan{Instance: strings.Repeat("x", i), Every: time.Hour}
		buckets[p.slot(now).Unix()%3600/360]++
	}
	for bucket, n := range buckets {
		if n > 50 || len(buckets) < 8 {
			t.Errorf("%d of 200 fall into tenth %d of the hour: %v", n, bucket, buckets)
		}
	}
}

// world is a server with one instance, acme, on a1, and a real repository of it.
type world struct {
	*testing.T
	db        *db.DB
	custodian Custodian
	node      *age.X25519Identity
	key       vaulttest.Key
	seal      *vault.Repository
	envelope  vault.Envelope
}

var spec = fleet.Spec{Instance: "acme", Fingerprint: "f1", Release: "notes/v1", Backup: fleet.BackupPolicy{Vault: "vb", Every: time.Hour, Custodian: true}}

func newWorld(t *testing.T, d *db.DB) *world {
	keys := accesstest.Keys(t, d)
	log, err := audit.New(keys)
	fatal(t, err)
	node, err := age.GenerateX25519Identity()
	fatal(t, err)
	w := &world{T: t, db: d, node: node, key: vaulttest.NewKey(t)}
	w.custodian = Custodian{DB: d, Keys: keys, Audit: log, Node: func(context.Context, string) (fleet.NodeFacts, error) {
		return fleet.NodeFacts{Node: "vb", Roles: []fleet.Role{fleet.RoleVault}, VaultAddr: "10.0.0.9:2022", VaultKey: "ssh-ed25519 AAAA"}, nil
	}}
	repository, _, err := vault.Init(context.Background(), disk.Open(filepath.Join(t.TempDir(), "acme")), vault.InitOptions{Instance: "acme", Recipients: []string{w.key.Public}, Custodians: []string{keys.CustodianRecipient()}})
	fatal(t, err)
	envelopes, err := repository.Envelopes(context.Background(), "")
	fatal(t, err)
	w.seal, w.envelope = repository, envelopes[0]
	w.tx(func(ctx context.Context, tx db.Tx) error {
		_, err := tx.NewRaw(`INSERT INTO placements (instance, node, site, epoch, slot, spec, release, retired, since, former)
			VALUES ('acme', 'a1', 'a', 1, 's1', 'f1', 'notes/v1', ?, 1, '[]')`, false).Exec(ctx)
		if err != nil {
			return err
		}
		_, err = tx.NewRaw("INSERT INTO specs (instance, fingerprint, spec, at) VALUES ('acme', 'f1', ?, 1)", db.Of(spec)).Exec(ctx)
		return err
	})
	return w
}

func fatal(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) tx(do func(ctx context.Context, tx db.Tx) error) {
	w.Helper()
	fatal(w.T, w.db.Tx(context.Background(), do))
}

func raw(v any) json.RawMessage {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
}

var catalogue = Catalogue{Log: slog.New(slog.DiscardHandler)}

// backedUp puts a snapshot of acme into the catalogue.
func (w *world) backedUp(id string, at time.Time) {
	w.Helper()
	writer, err := secret.SealBytes(w.custodian.Keys.ReplyToRecipient(), []byte("writer key of acme"))
	fatal(w.T, err)
	result := step.BackupResult{
		Snapshot: id, TakenAt: at, EndedAt: at.Add(time.Second), Bytes: 1000, WriterKey: writer, Release: "notes/v1", CanaryFrom: 7, CanaryTo: 9,
		Envelopes: map[string][]byte{w.envelope.Epoch: w.envelope.Age[0]}, Recovery: map[string][]byte{w.envelope.Epoch: w.envelope.PGP[0]},
	}
	w.tx(func(ctx context.Context, tx db.Tx) error {
		return catalogue.BackedUp(ctx, tx, op.Ending{
			Operation: op.Operation{ID: "op1"}, Node: "a1", Step: op.Step{Kind: step.Backup, Instance: "acme", Args: raw(step.BackupArgs{Spec: spec}), Result: raw(result)},
		})
	})
}

func (w *world) ask() (o op.Operation, err error) {
	nodes := World{Nodes: map[string]fleet.NodeFacts{"a1": {Roles: []fleet.Role{fleet.RoleRun}}, "b1": {Roles: []fleet.Role{fleet.RoleSpare}}, "vb": {}},
		Reachable: func(node string) bool { return node != "gone" }}
	err = w.db.Tx(context.Background(), func(ctx context.Context, tx db.Tx) error {
		o, err = BeginRestore(ctx, tx, "token/ada", Ask{Instance: "acme", Node: "b1"}, nodes)
		return err
	})
	return o, err
}

// call is the call of a step of an operation, as the interpreter makes it.
func (w *world) call(o op.Operation, id, node string) op.Call {
	w.Helper()
	steps, err := op.Whole(context.Background(), w.db, o.ID)
	fatal(w.T, err)
	s := steps[id]
	s.Attempt = 1
	return op.Call{Operation: o, Step: s, Node: node, SealTo: w.node.Recipient().String()}
}

func (w *world) release(o op.Operation) error {
	return w.db.Tx(context.Background(), func(ctx context.Context, tx db.Tx) error {
		_, err := w.custodian.Release(ctx, tx, w.call(o, "acme/release", ""))
		return err
	})
}

func TestCatalogueListsSnapshotsAndKnowsWhoOpensThem(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		w.backedUp("aa11", at)
		w.backedUp("aa22", at.Add(time.Hour))
		w.backedUp("aa22", at.Add(time.Hour)) // told twice
		all, err := List(context.Background(), d, "acme")
		if err != nil || len(all) != 2 || all[0].ID != "aa22" || !all[0].Custodian || !all[0].People || all[0].Vault != "vb" || all[0].Node != "a1" || all[0].CanaryTo != 9 {
			t.Fatalf("catalogue %+v, %v", all, err)
		}
		if all[0].Proof != (Proof{}) {
			t.Errorf("a snapshot that nobody restored has the proof %+v", all[0].Proof)
		}
		newest, err := Newest(context.Background(), d)
		if err != nil || len(newest) != 1 || newest["acme"].ID != "aa22" {
			t.Errorf("newest %+v, %v", newest, err)
		}
		for id, want := range map[string]problem.Kind{"": "", "aa2": "", "aa": problem.Usage, "bb": problem.NotFound} {
			if _, err := Find(context.Background(), d, "acme", id); problem.KindOf(err) != want {
				t.Errorf("find %q: %v, want kind %q", id, err, want)
			}
		}
		w.tx(func(ctx context.Context, tx db.Tx) error { return Pruned(ctx, tx, "acme", []string{"aa22"}) })
		if s, err := Find(context.Background(), d, "acme", ""); err != nil || s.ID != "aa11" {
			t.Errorf("after pruning the newest is %+v, %v", s, err)
		}
	})
}

func TestCustodianOpensExactlyWhatWasReleased(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ctx := context.Background()
		w.backedUp("aa11", time.Now())
		o, err := w.ask()
		fatal(t, err)
		fetch := w.call(o, "acme/fetch", "b1")
		if _, err := w.custodian.FillFetch(ctx, fetch); problem.KindOf(err) != problem.Denied {
			t.Errorf("without a release: %v", err)
		}
		fatal(t, w.release(o))
		filled, err := w.custodian.FillFetch(ctx, fetch)
		fatal(t, err)
		var args step.FetchArgs
		fatal(t, json.Unmarshal(filled, &args))
		if args.Repository.URL != "sftp://acme@10.0.0.9:2022/acme" || args.Repository.HostKey != "ssh-ed25519 AAAA" {
			t.Errorf("repository %+v", args.Repository)
		}
		w.opens(args.Identities)
		for name, c := range map[string]op.Call{"another node": w.call(o, "acme/fetch", "b2"), "another step": w.call(o, "acme/load", "b1")} {
			c.Step.Args = fetch.Step.Args
			if _, err := w.custodian.FillFetch(ctx, c); problem.KindOf(err) != problem.Denied {
				t.Errorf("%s got %v", name, err)
			}
		}
		if _, err := w.custodian.FillFetch(ctx, fetch); err != nil {
			t.Errorf("the same order again: %v", err)
		}
		w.recorded("release snapshot", "open snapshot")
	})
}

// opens holds a message to the node against the repository's real epoch.
func (w *world) opens(sealed []byte) {
	w.Helper()
	plain, err := secret.OpenBytes(w.node, sealed)
	fatal(w.T, err)
	var identities map[string]vault.EpochIdentity
	fatal(w.T, json.Unmarshal(plain, &identities))
	identity, ok := identities[w.envelope.Epoch]
	if !ok || len(identities) != 1 || identity.Repository != w.seal.Config().ID {
		w.Errorf("got identities of %v", slices.Collect(maps.Keys(identities)))
	}
}

// recorded expects exactly these deeds in the audit log, and no identity in any of them.
func (w *world) recorded(verbs ...string) {
	w.Helper()
	records, err := audit.List(context.Background(), w.db, audit.Filter{Object: "instance/acme", Limit: 100})
	fatal(w.T, err)
	var got []string
	for _, r := range records {
		got = append([]string{r.Verb}, got...)
		if strings.Contains(string(r.Detail), "AGE-SECRET") {
			w.Errorf("record %d holds a secret", r.Seq)
		}
	}
	if !slices.Equal(got, verbs) {
		w.Errorf("audit has %v, want %v", got, verbs)
	}
}

func TestReleaseRefusesAStepThatFetchesSomethingElse(t *testing.T) {
	w := newWorld(t, dbtest.Open(t))
	w.backedUp("aa11", time.Now())
	w.backedUp("aa22", time.Now())
	o, err := w.ask()
	fatal(t, err)
	c := w.call(o, "acme/release", "")
	c.Step.Args = raw(step.ReleaseArgs{Snapshot: "aa11", ForStep: "acme/fetch"})
	err = w.db.Tx(context.Background(), func(ctx context.Context, tx db.Tx) error {
		_, err := w.custodian.Release(ctx, tx, c)
		return err
	})
	if problem.KindOf(err) != problem.Denied {
		t.Errorf("got %v", err)
	}
	w.recorded()
}

func TestBackupOrderCarriesTheWriterKeyForItsNodeAlone(t *testing.T) {
	w := newWorld(t, dbtest.Open(t))
	w.backedUp("aa11", time.Now())
	var o op.Operation
	w.tx(func(ctx context.Context, tx db.Tx) (err error) {
		o, err = Begin(ctx, tx, "token/ada", []string{"acme"})
		return err
	})
	filled, err := w.custodian.FillBackup(context.Background(), w.call(o, "acme/backup", "a1"))
	fatal(t, err)
	var args step.BackupArgs
	fatal(t, json.Unmarshal(filled, &args))
	plain, err := secret.OpenBytes(w.node, args.Repository.WriterKey)
	if err != nil || string(plain) != "writer key of acme" {
		t.Errorf("writer key %q, %v", plain, err)
	}
	if !slices.Equal(args.Custodians, []string{w.custodian.Keys.CustodianRecipient()}) || args.ReplyTo != w.custodian.Keys.ReplyToRecipient() {
		t.Errorf("custodians %v, reply to %s", args.Custodians, args.ReplyTo)
	}
}

func TestPersonOpensOnTheirOwnMachineForOneNode(t *testing.T) {
	w := newWorld(t, dbtest.Open(t))
	w.backedUp("aa11", time.Now())
	snapshot, err := Find(context.Background(), w.db, "acme", "aa11")
	fatal(t, err)
	sealed, err := ForPeople(context.Background(), w.db, snapshot, "b1", w.node.Recipient().String())
	fatal(t, err)
	identities, err := sealed.OpenForNode(w.key.Secret, nil)
	fatal(t, err)
	w.opens(identities)
	_, err = sealed.OpenForNode(vaulttest.NewKey(t).Secret, nil)
	if problem.KindOf(err) != problem.WrongKey || !strings.Contains(err.Error(), "snapshot aa11 of acme was not opened") {
		t.Errorf("with a stranger's key: %v", err)
	}
}

func TestRestoreWithoutCustodianAsksForAKey(t *testing.T) {
	w := newWorld(t, dbtest.Open(t))
	w.envelope.Age[0] = nil
	w.backedUp("aa11", time.Now())
	_, err := w.ask()
	p, ok := errors.AsType[*problem.Error](err)
	if !ok || p.Kind != problem.WrongKey || p.Hint != "holdfast restore instance/acme --snapshot aa11 --key SECRET.asc" {
		t.Errorf("got %v", err)
	}
}

func TestRestoreGraphGoesBesideAndThenSwitches(t *testing.T) {
	ids := func(r Restore) string {
		g, err := RestoreGraph(r)
		fatal(t, err)
		var all []string
		for _, p := range g {
			text := strings.TrimPrefix(p.ID, "acme/")
			if p.OnFailure {
				text += "!"
			}
			all = append(all, text)
		}
		return strings.Join(all, " ")
	}
	base := Restore{Spec: spec, Snapshot: "aa11", Node: "b1", Slot: "s2"}
	beside, person, fenced := base, base, base
	beside.Beside, person.Identities, fenced.FenceNode = true, []byte("x"), "a1"
	again := fenced
	again.Was = &Was{Node: "a1", Slot: "s1", Spec: spec}
	for want, r := range map[string]Restore{
		"release fetch load boot ready checks discard! claim fence switch route reclaim! drop! return! resume!": again,
		"release fetch load boot ready checks discard! claim switch route":                                      base,
		"release fetch load boot ready checks discard!":                                                         beside,
		"fetch load boot ready checks discard! claim switch route":                                              person,
		"release fetch load boot ready checks discard! claim fence switch route":                                fenced,
	} {
		if got := ids(r); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestProofComesOnlyFromChecksOfTheRestoredSlot(t *testing.T) {
	w := newWorld(t, dbtest.Open(t))
	w.backedUp("aa11", time.Now())
	o, err := w.ask()
	fatal(t, err)
	proof := func(slot string, result step.ChecksResult) Proof {
		t.Helper()
		w.tx(func(ctx context.Context, tx db.Tx) error {
			if _, err := tx.NewRaw("UPDATE operation_steps SET state = 'done' WHERE operation = ? AND kind = 'fetch'", o.ID).Exec(ctx); err != nil {
				return err
			}
			return catalogue.Checked(ctx, tx, op.Ending{Operation: o, Step: op.Step{Kind: step.Checks, Instance: "acme", Args: raw(step.SlotArgs{Slot: slot}), Result: raw(result)}})
		})
		s, err := Find(context.Background(), w.db, "acme", "aa11")
		fatal(t, err)
		return s.Proof
	}
	if got := proof("s2", step.ChecksResult{Passed: 2, Required: 3}); got.Level != "" {
		t.Errorf("a proof from checks that did not hold: %+v", got)
	}
	if got := proof("s1", step.ChecksResult{Passed: 3, Required: 3}); got.Level != "" {
		t.Errorf("a proof from checks of another slot: %+v", got)
	}
	if got := proof("s2", step.ChecksResult{}); got.Level != "" {
		t.Errorf("a proof from no checks at all: %+v", got)
	}
	if got := proof("s2", step.ChecksResult{Passed: 3, Required: 3}); got.Level != Restored || got.At.IsZero() {
		t.Errorf("no proof: %+v", got)
	}
}

func TestSchedulerBeginsWhatIsDueAndNeverTwoAtOnce(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		s := Scheduler{DB: d, Log: slog.New(slog.DiscardHandler)}
		for range 3 {
			fatal(t, s.Once(context.Background()))
		}
		all, err := op.List(context.Background(), d, true, "backup", 10)
		if err != nil || len(all) != 1 || all[0].Actor != "server" || all[0].Title != "back up acme" {
			t.Fatalf("operations %+v, %v", all, err)
		}
		w.tx(func(ctx context.Context, tx db.Tx) error {
			_, err := Begin(ctx, tx, "token/ada", []string{"acme"})
			if problem.KindOf(err) != problem.Busy {
				t.Errorf("a second backup at once: %v", err)
			}
			return nil
		})
	})
}

func TestNonsenseFromANodeDoesNotStopItsReports(t *testing.T) {
	w := newWorld(t, dbtest.Open(t))
	for _, end := range []func(context.Context, db.Tx, op.Ending) error{catalogue.BackedUp, catalogue.Fetched, catalogue.Checked} {
		for _, result := range []string{"", "7", `{"snapshot":1}`, "{}"} {
			w.tx(func(ctx context.Context, tx db.Tx) error {
				return end(ctx, tx, op.Ending{Step: op.Step{Instance: "acme", Args: raw(step.BackupArgs{Spec: spec}), Result: json.RawMessage(result)}})
			})
		}
	}
	if all, err := List(context.Background(), w.db, ""); err != nil || len(all) != 0 {
		t.Errorf("catalogue %+v, %v", all, err)
	}
}

// Of what was proven the vault is told all, and the newest is protected by name; another vault's snapshots are not its
// business.
func TestAPruneProtectsTheNewestProof(t *testing.T) {
	at := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	held := []Snapshot{
		{ID: "d", Vault: "vb"}, {ID: "c", Vault: "vb", Proof: Proof{Restored, at.Add(time.Hour)}},
		{ID: "x", Vault: "va", Proof: Proof{Restored, at}}, {ID: "a", Vault: "vb", Proof: Proof{Restored, at}},
	}
	args := pruneOf(20, "vb", held)
	if len(args.Protect) != 1 || args.Protect[0] != "c" || len(args.Proven) != 2 || !args.Proven["a"].Equal(at) || args.KeepDaily != 20 || args.KeepLast != keepLast {
		t.Errorf("asked %+v", args)
	}
}

package fleet_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast/internal/fleet"
)

func read(t testing.TB, files fleet.Files) *fleet.Fleet {
	t.Helper()
	f, err := fleet.Read(files)
	if err != nil {
		t.Fatalf("read fleet: %v", err)
	}
	return f
}

func TestRenderTheExample(t *testing.T) {
	f := read(t, example(t))
	spec, err := fleet.Render(f, "staging")
	if err != nil {
		t.Fatal(err)
	}
	if got := []string{spec.Services[0].Name, spec.Services[1].Name}; !slices.Equal(got, []string{"api", "worker"}) {
		t.Errorf("start order %v, want api before worker, which needs it", got)
	}
	api, worker := spec.Services[0], spec.Services[1]
	wantEnv := map[string]string{
		"NOTES_LISTEN": "${host:api}:${port:api.http}", "NOTES_DB": "${state:db}/notes.db", "NOTES_FILES": "${state:files}",
		"NOTES_SECRET": "${secret:session_key}", "NOTES_INSTANCE": "staging", "NOTES_VERSION": "notes/v1.1.0",
		"NOTES_STATUS_AGENT": "${secret:status_agent}",
	}
	if diff := cmp.Diff(wantEnv, api.Env); diff != "" {
		t.Errorf("environment of api (-want +got):\n%s", diff)
	}
	if api.Image != "registry.example/notes/notes-api:v1.1.0" || api.Artifact != "/opt/notes/bin/notes-api" {
		t.Errorf("api is %s and %s", api.Image, api.Artifact)
	}
	if api.MemoryMB != 128 || worker.MemoryMB != 96 {
		t.Errorf("memory is %d and %d MB, want 128 (Compose) and 96 (the instance)", api.MemoryMB, worker.MemoryMB)
	}
	if diff := cmp.Diff([]fleet.Port{{Name: "http", Internal: 8080, Edge: true}}, api.Ports); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]fleet.Need{{Service: "api", Ready: true}}, worker.Needs); diff != "" {
		t.Errorf("needs (-want +got):\n%s", diff)
	}
	wantBackup := fleet.BackupPolicy{Every: time.Hour, RPO: 2 * time.Hour, KeepDaily: 14, Vault: "ams1-vault", Custodian: true}
	if diff := cmp.Diff(wantBackup, spec.Backup); diff != "" {
		t.Errorf("backup (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"staging.par1.notes.example"}, spec.Hosts); diff != "" {
		t.Errorf("hosts (-want +got):\n%s", diff)
	}
}

// shop is a product with one of each database, to see what its presets run.
const shop = `
kind: Product
name: shop
services:
  web:
    image: registry.example/shop/web:v1.0.0
    ports: [8080]
    environment: {RATE: 1.10, PRICE: 5$$, MOTTO: "${value:motto}"}
    x-holdfast: {edge: "8080", readiness: {http: /}}
  pg: {image: "postgres:16.4", volumes: ["pg:/var/lib/postgresql/data"], expose: ["5432"]}
  my: {image: "mariadb:11.4.3", volumes: ["my:/var/lib/mysql"]}
  mongo: {image: "mongo:7.0.14", volumes: ["mongo:/data/db"]}
  redis: {image: "redis:7.2.5", volumes: ["redis:/data"]}
  queue: {image: "registry.example/shop/queue:v1.0.0", volumes: ["queue:/q"]}
x-holdfast:
  values: {motto: "$ ${secret:pg}"}
  secrets: {pg: {}, mongo: {length: 20, version: 3}}
  state:
    pg: {kind: postgres, service: pg, user: shop, database: shop, password: "${secret:pg}"}
    my: {kind: mariadb, service: my, database: shop}
    mongo: {kind: mongodb, service: mongo, user: root, database: shop, password: "${secret:mongo}"}
    redis: {kind: redis, service: redis}
    queue: {kind: command, service: queue, dump: {args: [queue, export], timeout: 2h}, load: {args: [queue, import]}}
  hooks:
    neutralise: {service: web, args: [quiet, "${instance:host}"]}
  invariants:
    rows: {service: pg, command: {args: [count]}, expect: "1"}
---
kind: Release
name: shop/v1.0.0
---
kind: Instance
name: fair
product: shop
release: shop/v1.0.0
placement: {site: par1}
backup: {custodian: true}
hosts: [fair.example]
secrets: {pg: 2}
`

func TestRenderEveryPreset(t *testing.T) {
	files := example(t)
	files["shop.yaml"] = []byte(shop)
	spec, err := fleet.Render(read(t, files), "fair")
	if err != nil {
		t.Fatal(err)
	}
	dumps := map[string][]string{}
	for _, s := range spec.State {
		dumps[s.Name] = s.Dump.Args
	}
	want := map[string][]string{
		"pg": {"env", "PGPASSWORD=${secret:pg}", "pg_dump", "--host=${host:pg}", "--port=${port:pg.5432}", "--username=shop", "--no-password",
			"--format=custom", "--no-owner", "--no-privileges", "--dbname=shop"},
		"my": {"mariadb-dump", "--protocol=tcp", "--host=${host:my}", "--port=3306", "--user=root", "--single-transaction", "--quick", "--routines",
			"--events", "--triggers", "--hex-blob", "--add-drop-database", "--databases", "shop"},
		"mongo": {"env", "P=${secret:mongo}", "sh", "-c",
			`umask 077; f=$(mktemp); trap 'rm -f "$f"' EXIT; printf 'password: "%s"\n' "$P" >"$f"; "$@" --config="$f"`, "sh",
			"mongodump", "--quiet", "--archive", "--host=${host:mongo}", "--port=27017", "--username=root", "--authenticationDatabase=admin", "--db=shop"},
		"redis": {"sh", "-c", `umask 077; f=$(mktemp); trap 'rm -f "$f"' EXIT; "$@" --rdb "$f" >/dev/null && cat "$f"`, "sh",
			"redis-cli", "-h", "${host:redis}", "-p", "6379"},
		"queue": {"queue", "export"},
	}
	if diff := cmp.Diff(want, dumps); diff != "" {
		t.Errorf("dump commands (-want +got):\n%s", diff)
	}
	if got := spec.State[3].Dump.Timeout; spec.State[3].Name != "queue" || got != 2*time.Hour {
		t.Errorf("dump of %s may take %v, want queue and 2h", spec.State[3].Name, got)
	}
	wantSecrets := []fleet.SecretRef{{Name: "mongo", Version: 3, Length: 20}, {Name: "pg", Version: 2, Length: 32}}
	if diff := cmp.Diff(wantSecrets, spec.Secrets); diff != "" {
		t.Errorf("secrets (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"quiet", "fair.example"}, spec.Hooks[fleet.HookNeutralise].Args); diff != "" {
		t.Errorf("hook (-want +got):\n%s", diff)
	}
	web := spec.Services[slices.IndexFunc(spec.Services, func(s fleet.Service) bool { return s.Name == "web" })]
	onNode := map[string]string{}
	for name, text := range web.Env {
		onNode[name], err = fleet.Resolve(text, func(r fleet.Reference) (string, error) { return "", fmt.Errorf("the node would look up %s", r) })
		if err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff(map[string]string{"RATE": "1.10", "PRICE": "5$", "MOTTO": "$ ${secret:pg}"}, onNode); diff != "" {
		t.Errorf("environment on the node (-want +got):\n%s", diff)
	}
}

// generated is a fleet of instances with values that nobody else has.
func generated(t *rapid.T) (fleet.Files, []string) {
	files := fleet.Files{"base.yaml": []byte(`
kind: Site
name: par1
domain: example
backup: {vault: ams1-vault}
---
kind: Product
name: shop
services:
  web:
    image: registry.example/shop/web:v1.0.0
    ports: [8080]
    environment: {A: "${value:a}", B: "x${value:b}", S: "${secret:key}"}
    x-holdfast: {edge: "8080"}
x-holdfast:
  values: {a: none, b: none}
  secrets: {key: {}}
---
kind: Release
name: shop/v1.0.0
`)}
	names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z]{3,8}`), 2, 6, rapid.ID).Draw(t, "names")
	for i, name := range names {
		files[name+".yaml"] = fmt.Appendf(nil, "kind: Instance\nname: %s\nproduct: shop\nrelease: shop/v1.0.0\nplacement: {site: par1}\nvalues: {a: %q, b: %q}\nlabels: {customer: %q}\n",
			name, marker("A", i), marker("B", i), marker("C", i))
	}
	return files, names
}

func marker(kind string, i int) string { return fmt.Sprintf("ONLY-%s-%d-$END", kind, i) }

// No byte of one customer's values is in another's Spec, and the same files give the same bytes in any order.
func TestRenderKeepsInstancesApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		files, names := generated(t)
		f, err := fleet.Read(files)
		if err != nil {
			t.Fatal(err)
		}
		renamed := fleet.Files{}
		for name, content := range files {
			renamed["z/"+string(name[0])+"/"+name] = content
		}
		again, err := fleet.Read(renamed)
		if err != nil || again.Revision != f.Revision {
			t.Fatalf("other file names gave revision %s, not %s (%v)", again.Revision, f.Revision, err)
		}
		for i, name := range names {
			spec := renderJSON(t, f, name)
			if !bytes.Equal(spec, renderJSON(t, again, name)) {
				t.Fatalf("%s renders differently from the same content", name)
			}
			for j, other := range names {
				foreign := strings.Contains(string(spec), strings.TrimSuffix(marker("A", j), "$END")) || strings.Contains(string(spec), strings.TrimSuffix(marker("B", j), "$END"))
				if i != j && (foreign || strings.Contains(string(spec), `"`+other+`.`)) {
					t.Fatalf("the spec of %s holds something of %s:\n%s", name, other, spec)
				}
				if i == j && !foreign {
					t.Fatalf("the spec of %s lost its own values", name)
				}
			}
		}
	})
}

func renderJSON(t *rapid.T, f *fleet.Fleet, name string) []byte {
	spec, err := fleet.Render(f, name)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Whatever changes in a spec changes its fingerprint.
func TestFingerprintSeesEveryLayer(t *testing.T) {
	before, err := fleet.Render(read(t, example(t)), "acme")
	if err != nil {
		t.Fatal(err)
	}
	for change, edit := range map[string][3]string{
		"product value":    {"product.yaml", "/opt/notes/bin", "/srv/notes"},
		"release image":    {"releases.yaml", "notes-api:v1.0.0", "notes-api:v1.0.1"},
		"site domain":      {"sites.yaml", "par1.notes.example", "notes.example"},
		"instance backup":  {"instances/acme.yaml", "every: 15m", "every: 10m"},
		"secret length":    {"product.yaml", "length: 32", "length: 40"},
		"invariant path":   {"product.yaml", "http: /invariants", "http: /invariant"},
		"memory":           {"product.yaml", "mem_limit: 64m", "mem_limit: 65m"},
		"readiness within": {"product.yaml", "within: 30s", "within: 31s"},
	} {
		files := example(t)
		files[edit[0]] = bytes.Replace(files[edit[0]], []byte(edit[1]), []byte(edit[2]), 1)
		after, err := fleet.Render(read(t, files), "acme")
		if err != nil || after.Fingerprint == before.Fingerprint {
			t.Errorf("%s: the fingerprint stayed %.12s (%v)", change, after.Fingerprint, err)
		}
	}
}

// Every layer gives the same setting: the last one wins, and each of the others is named in its turn.
func TestExplain(t *testing.T) {
	files := example(t)
	files["rings.yaml"] = []byte("kind: Ring\nname: staging\nvalues: {worker.memory: 80m, programs: /ring}\n---\nkind: Ring\nname: everyone\n")
	files["releases.yaml"] = append(files["releases.yaml"], []byte("values: {programs: /release}\n")...)
	files["sites.yaml"] = bytes.Replace(files["sites.yaml"], []byte("name: par1\n"), []byte("name: par1\nvalues: {programs: /site, worker.memory: 72m}\n"), 1)
	files["instances/staging.yaml"] = append(files["instances/staging.yaml"], []byte("  programs: /instance\n")...)
	explained, err := read(t, files).Explain("staging")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for _, s := range explained.Settings {
		for _, g := range append([]fleet.Given{s.Winner}, s.Losers...) {
			got[s.Name] = append(got[s.Name], fmt.Sprintf("%s (%s, %s:%d)", g.Value.Text, g.Layer, g.File, g.Line))
		}
	}
	want := map[string][]string{
		"worker.memory": {"96m (Instance staging, instances/staging.yaml:11)", "80m (Ring staging, rings.yaml:3)", "72m (Site par1, sites.yaml:5)", "64m (Product notes, product.yaml:28)"},
		"programs":      {"/instance (Instance staging, instances/staging.yaml:12)", "/ring (Ring staging, rings.yaml:3)", "/site (Site par1, sites.yaml:5)", "/release (Release notes/v1.1.0, releases.yaml:14)", "/opt/notes/bin (Product notes, product.yaml:48)"},
		"backup.every":  {"1h (Product notes, product.yaml:59)", "24h (built in, :0)"},
	}
	for name, lines := range want {
		if diff := cmp.Diff(lines, got[name]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestReachableFrom(t *testing.T) {
	release := read(t, example(t)).Releases["notes/v1.1.0"]
	for current, want := range map[string]bool{"notes/v1.0.0": true, "notes/v1.9.9": true, "notes/v0.9.0": false, "notes/v2.0.0": false} {
		if got := release.ReachableFrom(current); got != want {
			t.Errorf("v1.1.0 from %s: %v, want %v", current, got, want)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, content := range example(f) {
		f.Add(content)
	}
	f.Add([]byte("a: &a [*a, *a]"))
	f.Add([]byte("kind: Site\n<<: {name: x}\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		once, errOnce := fleet.Read(fleet.Files{"a.yaml": content})
		again, errAgain := fleet.Read(fleet.Files{"a.yaml": content})
		if (errOnce == nil) != (errAgain == nil) || errOnce != nil && errOnce.Error() != errAgain.Error() {
			t.Errorf("the same bytes gave %v and then %v", errOnce, errAgain)
		}
		if errOnce == nil && once.Revision != again.Revision {
			t.Error("the same bytes gave two revisions")
		}
	})
}

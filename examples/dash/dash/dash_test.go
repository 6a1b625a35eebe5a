package dash_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/examples/dash/dash"
)

const facts = `{"name":"nginx","version":"1.22","section":"httpd","installed_kb":1200,"description":"a web server"}
{"name":"redis","version":"7.0","section":"database","installed_kb":4800,"description":"a cache"}
{"name":"sqlite3","version":"3.40","section":"database","installed_kb":600,"description":"a database"}
`

// put stores a dashboard with a picture, in the form of its release, and gives the picture.
func put(t *testing.T, base, id, title, note string) dash.File {
	t.Helper()
	var picture dash.File
	if err := json.Unmarshal([]byte(must(t, http.StatusCreated, "POST", base+"/files", "picture of "+id)), &picture); err != nil {
		t.Fatal(err)
	}
	d := dash.Dashboard{Title: title, Note: note, Picture: &picture, Sections: []string{"database", "httpd"}}
	if strings.HasSuffix(base, "/v1") {
		d.Section, d.Sections = "database", nil
	}
	body, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	must(t, http.StatusCreated, "PUT", base+"/dashboards/"+id, string(body))
	return picture
}

func get(t *testing.T, base, id string) dash.Dashboard {
	t.Helper()
	var d dash.Dashboard
	if err := json.Unmarshal([]byte(must(t, http.StatusOK, "GET", base+"/dashboards/"+id, "")), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// One customer's way through all releases: the data is brought along, and each release does what it says.
func TestReleases(t *testing.T) {
	w := newWorld(t)
	url, stop := w.deploy("v1.0.0")
	must(t, http.StatusOK, "POST", url+"/api/v1/facts", facts)
	put(t, url+"/api/v1", "d1", "Data Bases", "first")
	must(t, http.StatusOK, "PUT", url+"/api/v1/connections/warehouse", "password of the customer")
	must(t, http.StatusUnprocessableEntity, "PUT", url+"/api/v1/dashboards/d2", `{"title": "t", "sections": ["database"]}`)
	stop()

	if _, err := w.open("v3.0.0").Migrate(t.Context()); err == nil || !strings.Contains(err.Error(), "deploy v2 before") {
		t.Fatalf("v3 after v1: %v", err)
	}

	url, stop = w.deploy("v2.0.0")
	if d := get(t, url+"/api/v2", "d1"); d.Section != "" || len(d.Sections) != 1 || d.Sections[0] != "database" {
		t.Errorf("v2 has sections %q and %q", d.Section, d.Sections)
	}
	must(t, http.StatusNotFound, "GET", url+"/api/v1/dashboards", "") // a frontend of another major finds nothing
	put(t, url+"/api/v2", "d2", "Servers", "second")
	stop()
	if _, err := w.open("v1.0.0").Migrate(t.Context()); err == nil || !strings.Contains(err.Error(), "knows only 1") {
		t.Fatalf("v1 after v2: %v", err)
	}

	w.database.stop(t) // v3 steps to the next version of the database, on the same files
	w.database = ferret(t, "1.24", w.data)
	url, stop = w.deploy("v3.0.0")
	if d := get(t, url+"/api/v3", "d1"); d.Slug != "data-bases" || d.Note != "first" {
		t.Errorf("v3 has slug %q and note %q", d.Slug, d.Note)
	}
	put(t, url+"/api/v3", "d3", "data bases!", "has the address of d1")
	stop()

	v4 := w.open("v4.0.0")
	if _, err := v4.Migrate(t.Context()); err == nil || !strings.Contains(err.Error(), "dashboards d1 and d3 have one address") {
		t.Fatalf("v4 with two of one address: %v", err)
	}
	url, stop = w.deploy("v3.0.0") // the failure left v3 as it was
	put(t, url+"/api/v3", "d3", "Renamed", "third")
	stop()
	url, stop = w.deploy("v4.0.0")
	must(t, http.StatusUnprocessableEntity, "PUT", url+"/api/v4/dashboards/d4", `{"title": "Renamed", "sections": ["httpd"]}`)
	var v dash.Verified
	if err := json.Unmarshal([]byte(must(t, http.StatusOK, "GET", url+"/invariants", "")), &v); err != nil {
		t.Fatal(err)
	}
	if v.Facts != 3 || v.Dashboards != 3 || v.Connections != 2 || len(v.Migrations) != 4 || v.Migrations[2].Release != "v3.0.0" {
		t.Errorf("after four releases: %+v", v)
	}
	stop()
}

// The tile of a dashboard is drawn though Redis lost the queue, and shows the facts.
func TestWorkersDraw(t *testing.T) {
	w := newWorld(t)
	url, stop := w.deploy("v2.0.0")
	defer stop()
	base := url + "/api/v2"
	must(t, http.StatusOK, "POST", base+"/facts", facts)
	put(t, base, "d1", "One & two", "n")
	queue := dash.OpenQueue(w.cache.address)
	defer queue.Close()
	if err := queue.Forget(t.Context()); err != nil {
		t.Fatal(err)
	}
	var d dash.Dashboard
	await(t, func() bool { d = get(t, base, "d1"); return d.Tile != nil }, func() string { return "no tile was drawn" })
	tile := must(t, http.StatusOK, "GET", base+"/files/"+d.Tile.SHA256, "")
	for _, want := range []string{"One &amp; two", "database", "2 packages, 5 MB", "1 packages, 1 MB"} {
		if !strings.Contains(tile, want) {
			t.Errorf("the tile lacks %q: %s", want, tile)
		}
	}
	await(t, func() bool {
		n, err := queue.Waiting(t.Context())
		return err == nil && n == 0
	}, func() string { return "the queue does not empty" })
}

// What is damaged is named; what is whole is not.
func TestInvariantsNameWhatIsDamaged(t *testing.T) {
	w := newWorld(t)
	url, stop := w.deploy("v2.0.0")
	defer stop()
	picture := put(t, url+"/api/v2", "d1", "t", "n")
	must(t, http.StatusOK, "GET", url+"/invariants", "")
	if err := os.WriteFile(filepath.Join(w.storage, picture.SHA256), []byte("other bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	if text := must(t, http.StatusConflict, "GET", url+"/invariants", ""); !strings.Contains(text, "dashboard d1: file "+picture.SHA256) {
		t.Errorf("damaged data: %s", text)
	}
	if err := os.Remove(filepath.Join(w.storage, picture.SHA256)); err != nil {
		t.Fatal(err)
	}
	if text := must(t, http.StatusConflict, "GET", url+"/invariants", ""); !strings.Contains(text, "not found") {
		t.Errorf("lost file: %s", text)
	}
	body := fmt.Sprintf(`{"title": "t2", "sections": ["s"], "picture": {"sha256": %q, "size": %d}}`, picture.SHA256, picture.Size)
	must(t, http.StatusUnprocessableEntity, "PUT", url+"/api/v2/dashboards/d2", body) // its picture is not there
}

// /status speaks to the secret User-Agent only, and names the part that is away.
func TestStatus(t *testing.T) {
	w := newWorld(t)
	url, stop := w.deploy("v2.0.0")
	defer stop()
	must(t, http.StatusNotFound, "GET", url+"/status", "")
	agent := []string{"User-Agent", "secret-agent"}
	var status dash.Status
	await(t, func() bool {
		code, text := ask(t, "GET", url+"/status", "", agent...)
		return code == http.StatusOK && json.Unmarshal([]byte(text), &status) == nil
	}, func() string { return fmt.Sprintf("the status does not become well: %+v", status) })
	if status.Alive != 1 || status.Version != "v2.0.0" || status.Engine == "" {
		t.Errorf("status %+v", status)
	}
	must(t, http.StatusOK, "GET", url+"/readiness", "")
	w.cache.stop(t)
	var broken dash.Status
	if err := json.Unmarshal([]byte(must(t, http.StatusServiceUnavailable, "GET", url+"/status", "", agent...)), &broken); err != nil {
		t.Fatal(err)
	}
	if broken.Cache == "ok" || broken.Database != "ok" {
		t.Errorf("status without the cache: %+v", broken)
	}
	must(t, http.StatusServiceUnavailable, "GET", url+"/readiness", "")
	must(t, http.StatusOK, "GET", url+"/liveness", "")
	put(t, url+"/api/v2", "d1", "t", "stored though the queue is away")
}

func TestOtherSecretIsNoticed(t *testing.T) {
	w := newWorld(t)
	_, stop := w.deploy("v1.0.0")
	stop()
	release, err := dash.ParseRelease("v1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	other, err := dash.Open(t.Context(), dash.Options{Database: "mongodb://" + w.database.address, Storage: w.storage, Secret: strings.Repeat("x", 32), Release: release})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.Migrate(t.Context()); err == nil || !strings.Contains(err.Error(), "another ENCRYPTION_SECRET") {
		t.Fatalf("another secret: %v", err)
	}
}

// The program itself refuses to start without its secret, before it asks anything of a database.
func TestNoSecretNoStart(t *testing.T) {
	for _, args := range [][]string{{"api"}, {"worker"}} {
		command := exec.CommandContext(t.Context(), programs["dash-backend-v1.0.0"], args...)
		command.Env = []string{"DASH_STORAGE=" + t.TempDir(), "ENCRYPTION_SECRET=short"}
		words, err := command.CombinedOutput()
		if err == nil || !strings.Contains(string(words), "ENCRYPTION_SECRET is missing or shorter") {
			t.Errorf("%v without a secret: %v: %s", args, err, words)
		}
	}
}

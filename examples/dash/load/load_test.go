package load_test

import (
	"fmt"
	"strings"
	"testing"

	"holdfast/examples/dash/load"
)

const list = `Package: nginx
Version: 1.22.1-9
Installed-Size: 1200
Section: httpd
Description: small, powerful, scalable web server
 This is the long text: it is not read.
Conffiles:
 /etc/nginx/nginx.conf 1

Package: nginx
Version: 1.18
Section: httpd

Package: no-section
Version: 1

Package: redis
Version: 5:7.0
Section: database
Description: a cache`

func TestReadPackages(t *testing.T) {
	all, err := load.ReadPackages(strings.NewReader(list), func(string) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 2 || all[0].Version != "1.22.1-9" || all[0].InstalledKB != 1200 || all[1].Name != "redis" || all[1].Version != "5:7.0" {
		t.Errorf("read %+v", all)
	}
}

// Two customers have different parts of the list, and the same one again the next time.
func TestShareDiffersPerCustomer(t *testing.T) {
	acme, globex, again := load.Share("acme", 4), load.Share("globex", 4), load.Share("acme", 4)
	same, kept := 0, 0
	for n := range 1000 {
		name := fmt.Sprintf("package-%d", n)
		if acme(name) != again(name) {
			t.Fatalf("the share of acme is not the same twice: %s", name)
		}
		if acme(name) {
			kept++
			if globex(name) {
				same++
			}
		}
	}
	if kept < 150 || kept > 350 || same > kept/2 {
		t.Errorf("acme has %d of 1000, of which globex has %d", kept, same)
	}
}

func TestLedgerCutOff(t *testing.T) {
	whole := `{"id":"w-1"}` + "\n" + `{"id":"w-2"}` + "\n"
	if all, err := load.ReadLedger(strings.NewReader(whole + `{"id":"w-`)); err != nil || len(all) != 2 {
		t.Errorf("a ledger whose last line is cut off: %v, %v", all, err)
	}
	if _, err := load.ReadLedger(strings.NewReader(`{"id":` + "\n" + whole)); err == nil {
		t.Error("a ledger with a broken line in its middle was read")
	}
}

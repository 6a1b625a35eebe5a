package web_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"holdfast/internal/fleet"
)

// browser starts a real headless Chromium with an empty profile. Where HOLDFAST_SCREENSHOTS names a folder, shots
// are kept there to be looked at.
func browser(t *testing.T) context.Context {
	t.Helper()
	alloc, endAlloc := chromedp.NewExecAllocator(context.Background(), chromedp.ExecPath(chromium(t)), chromedp.Headless, chromedp.NoSandbox,
		chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-background-networking", true), chromedp.UserDataDir(t.TempDir()))
	ctx, end := chromedp.NewContext(alloc)
	t.Cleanup(func() { end(); endAlloc() })
	do(t, ctx, chromedp.Navigate("about:blank")) // the first action starts the browser, which lives as long as ctx
	ctx, endTime := context.WithTimeout(ctx, 90*time.Second)
	t.Cleanup(endTime)
	return ctx
}

func do(t *testing.T, ctx context.Context, actions ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(ctx, actions...); err != nil {
		t.Fatal(err)
	}
}

// ask evaluates an expression in the page.
func ask[T any](t *testing.T, ctx context.Context, expression string) T {
	t.Helper()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	return value
}

func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Fatal("no Chromium on this machine: make setup, as root, installs it")
	return ""
}

// enter types the token into the login page, as a person does.
func enter(t *testing.T, ctx context.Context, url string) {
	t.Helper()
	do(t, ctx, chromedp.Navigate(url+"/"), chromedp.WaitVisible("#token"), chromedp.SendKeys("#token", token+"\r"), chromedp.WaitVisible("#filter"))
}

// shot keeps a picture of the page when somebody wants to look.
func shot(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	dir := os.Getenv("HOLDFAST_SCREENSHOTS")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), png, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestPersonFindsTheSickInstanceInFiveHundred(t *testing.T) {
	s := open(t, 500)
	ctx := browser(t)
	do(t, ctx, chromedp.EmulateViewport(1280, 800))
	enter(t, ctx, s.URL)
	shot(t, ctx, "fleet")
	if cells := ask[int](t, ctx, `document.querySelectorAll('.cell').length`); cells != 501 {
		t.Errorf("%d cells", cells)
	}
	do(t, ctx, chromedp.KeyEvent("/"))
	if focus := ask[string](t, ctx, `document.activeElement.id`); focus != "filter" {
		t.Errorf("the key / leads to %q", focus)
	}
	do(t, ctx, chromedp.KeyEvent("\b"), chromedp.SendKeys("#filter", "degraded"))
	if left := ask[int](t, ctx, `[...document.querySelectorAll('li[data-find]')].filter(e => !e.hidden).length`); left != 1 {
		t.Errorf("%d cells after the filter", left)
	}
	do(t, ctx, chromedp.Click("li[data-find]:not([hidden]) a"), chromedp.WaitVisible("dl"))
	shot(t, ctx, "instance")
	if here := ask[string](t, ctx, `location.pathname`); here != "/instances/customer-000" {
		t.Errorf("the click led to %s", here)
	}
}

// Without a mouse: the filter, the cells and the first that is left are reached by keys alone.
func TestTheFleetIsWalkedByKeys(t *testing.T) {
	s := open(t, 40)
	ctx := browser(t)
	do(t, ctx, chromedp.EmulateViewport(1280, 800))
	enter(t, ctx, s.URL)
	const here = `document.activeElement.dataset.key || document.activeElement.id`
	press := func(key, want string) {
		t.Helper()
		do(t, ctx, chromedp.KeyEvent(key))
		if at := ask[string](t, ctx, here); at != want {
			t.Errorf("the key %q leads to %q, want %q", key, at, want)
		}
	}
	press("/", "filter")
	press(kb.Tab, "cell-far")
	press(kb.Tab, "cell-customer-000")
	press(kb.ArrowRight, "cell-customer-001")
	press(kb.ArrowLeft, "cell-customer-000")
	press(kb.ArrowLeft, "cell-far")
	press("/", "filter")
	do(t, ctx, chromedp.KeyEvent("\b\b"), chromedp.SendKeys("#filter", "customer-017"), chromedp.KeyEvent(kb.Enter), chromedp.WaitVisible("dl")) // both slashes go
	if at := ask[string](t, ctx, `location.pathname`); at != "/instances/customer-017" {
		t.Errorf("Enter in the filter led to %s", at)
	}
}

func TestPageFollowsTheFleetWithoutAReload(t *testing.T) {
	s := open(t, 8)
	ctx := browser(t)
	enter(t, ctx, s.URL)
	const state = `document.querySelector('[data-key="cell-customer-005"]').className`
	if before := ask[string](t, ctx, state); before != "cell good" {
		t.Fatalf("the cell begins as %q", before)
	}
	ask[string](t, ctx, `window.marked = 'same page'`)
	s.inventory.Store(degraded("customer-005"))
	s.changed <- struct{}{}
	_, err := chromedp.Run(ctx, chromedp.Poll[bool](state+`.includes('bad') && window.marked === 'same page'`, chromedp.WithPollingTimeout(20*time.Second)))
	if err != nil {
		t.Fatalf("the cell did not change on the same page: %v", err)
	}
}

// degraded is the inventory in which one more instance is.
func degraded(name string) *fleet.Inventory {
	inv := inventory(8)
	instances := inv.Nodes[inv.Placements[name].Node].Instances
	facts := instances[name]
	facts.State = fleet.StateDegraded
	instances[name] = facts
	return inv
}

func TestPagesFitAPhone(t *testing.T) {
	s := open(t, 30)
	ctx := browser(t)
	do(t, ctx, chromedp.EmulateViewport(360, 740, chromedp.EmulateMobile))
	enter(t, ctx, s.URL)
	for _, path := range []string{"/", "/nodes", "/instances/customer-004", "/operations", "/operations/op-1", "/drills"} {
		do(t, ctx, chromedp.Navigate(s.URL+path), chromedp.WaitVisible("main"))
		shot(t, ctx, "phone-"+strings.Trim(strings.ReplaceAll(path, "/", "-"), "-"))
		if wide := ask[int](t, ctx, `document.documentElement.scrollWidth`); wide > 360 {
			t.Errorf("%s is %d pixels wide on a phone of 360", path, wide)
		}
	}
}

package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/chromedp/chromedp"
)

func main() {
	base, token, out := os.Args[1], os.Args[2], os.Args[3]
	for _, mode := range []string{"light", "dark"} {
		dir, _ := os.MkdirTemp("", "shot")
		scheme := map[string]string{"light": "preferredColorScheme=1", "dark": "preferredColorScheme=0"}[mode]
		a, c1 := chromedp.NewExecAllocator(context.Background(), chromedp.ExecPath("/usr/bin/chromium"), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
			chromedp.Flag("ignore-certificate-errors", true), chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("blink-settings", scheme), chromedp.UserDataDir(dir))
		ctx, c2 := chromedp.NewContext(a)
		must(chromedp.Do(ctx, chromedp.Navigate("about:blank")))
		ctx, c3 := context.WithTimeout(ctx, 60*time.Second)
		must(chromedp.Do(ctx, chromedp.EmulateViewport(360, 740, chromedp.EmulateMobile), chromedp.Navigate(base+"/?token="+token), chromedp.WaitVisible("main")))
		for i, path := range os.Args[4:] {
			must(chromedp.Do(ctx, chromedp.Navigate(base+path), chromedp.WaitVisible("main")))
			wide, err := chromedp.Run(ctx, chromedp.Evaluate[int](`document.documentElement.scrollWidth`))
			must(err)
			dark, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`matchMedia('(prefers-color-scheme: dark)').matches`))
			must(err)
			png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
			must(err)
			fmt.Println(mode, dark, path, wide)
			must(os.WriteFile(fmt.Sprintf("%s/%d-%s.png", out, i, mode), png, 0o644))
		}
		c3()
		c2()
		c1()
		_ = os.RemoveAll(dir)
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

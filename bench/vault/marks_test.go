package main

import (
	"strings"
	"testing"
)

func TestJudge(t *testing.T) {
	all := []measured{
		{Tool: "holdfast", Step: "full restore", Round: 0, Seconds: 10}, {Tool: "restic", Step: "full restore", Round: 0, Seconds: 15},
		{Tool: "holdfast", Step: "full restore", Round: 1, Seconds: 8}, {Tool: "restic", Step: "full restore", Round: 1, Seconds: 24},
		{Tool: "holdfast", Step: "full restore", Round: 2, Seconds: 9}, {Tool: "restic", Step: "full restore", Round: 2, Seconds: 19},
	}
	got := judge(all, marks(false))
	if len(got) != 1 {
		t.Fatalf("%d verdicts, want that on restic's restore alone: %+v", len(got), got)
	}
	if v := got[0]; v.peer != "restic" || !v.met() || v.Ratio != 19.0/9 || v.Low != 1.5 || v.High != 3 {
		t.Errorf("%+v", v)
	}
	all[3].Seconds, all[5].Seconds = 15, 15
	if v := judge(all, marks(false))[0]; v.met() {
		t.Errorf("15 to 9 seconds are not twice as fast: %+v", v)
	}
}

func TestDrawMarksNamesWhatIsMissed(t *testing.T) {
	var b strings.Builder
	all := []measured{{Tool: "holdfast", Step: "first", Seconds: 10, RSS: 400e6}, {Tool: "tar", Step: "first", Seconds: 12}}
	if err := drawMarks(&b, all, false); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != 3 || !strings.HasSuffix(lines[1], " met") || !strings.HasSuffix(lines[2], "MISSED") {
		t.Errorf("%s", b.String())
	}
}

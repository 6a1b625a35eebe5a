package fleet

import (
	"encoding/json"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestDurationsReadBackAsWritten(t *testing.T) {
	for d, want := range map[time.Duration]string{
		24 * time.Hour:                 "24h",
		90 * time.Minute:               "1h30m",
		30 * time.Minute:               "30m",
		90 * time.Second:               "1m30s",
		500 * time.Millisecond:         "500ms",
		time.Hour + 10*time.Second:     "1h0m10s",
		20*time.Hour + 100*time.Minute: "21h40m",
	} {
		if got := FormatDuration(d); got != want {
			t.Errorf("FormatDuration(%v) = %s, want %s", d, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(1, int64(1000*time.Hour)).Draw(t, "d"))
		back, err := ParseDuration(FormatDuration(d))
		if err != nil || back != d {
			t.Fatalf("%v written as %s reads back as %v (%v)", d, FormatDuration(d), back, err)
		}
	})
}

func TestParseDurationKnowsDaysAndWeeks(t *testing.T) {
	for text, want := range map[string]time.Duration{"7d": 7 * 24 * time.Hour, "2w": 14 * 24 * time.Hour, "1d12h": 36 * time.Hour} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("ParseDuration(%s) = %v, %v; want %v", text, got, err, want)
		}
	}
	if _, err := ParseDuration("soon"); err == nil {
		t.Error("ParseDuration(soon) gave no error")
	}
}

func TestValuesStayAsWritten(t *testing.T) {
	for written, want := range map[string]Value{
		`1.10`:   TextValue("1.10"),
		`true`:   TextValue("true"),
		`"text"`: TextValue("text"),
		`null`:   {},
		`""`:     TextValue(""),
	} {
		var got Value
		if err := json.Unmarshal([]byte(written), &got); err != nil || got != want {
			t.Errorf("%s reads as %+v, %v; want %+v", written, got, err, want)
		}
	}
}

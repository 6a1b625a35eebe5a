package agent

import (
	"strings"
	"testing"

	"holdfast/internal/step"
)

func TestCutRules(t *testing.T) {
	got, err := cutRules(step.FaultArgs{ID: "d", Allow: []string{"192.0.2.7", "10.0.0.0/8", "[2001:db8::1]:8443"}})
	want := `table inet holdfast_18ac3e7343f0
delete table inet holdfast_18ac3e7343f0
table inet holdfast_18ac3e7343f0 {
	chain input {
		type filter hook input priority -300; policy accept;
		iifname "lo" accept
		ip saddr 192.0.2.7 accept
		ip saddr 10.0.0.0/8 accept
		ip6 saddr 2001:db8::1 tcp sport 8443 accept
		counter drop
	}
	chain output {
		type filter hook output priority -300; policy accept;
		oifname "lo" accept
		ip daddr 192.0.2.7 accept
		ip daddr 10.0.0.0/8 accept
		ip6 daddr 2001:db8::1 tcp dport 8443 accept
		counter drop
	}
	chain forward {
		type filter hook forward priority -300; policy accept;
		counter drop
	}
}
`
	if err != nil || got != want {
		t.Errorf("rules of a cut: %v\n%s", err, got)
	}
	for allow, says := range map[string]string{"": "must allow a way", "example.org": "neither an address", "10.0.0.0/8; flush ruleset": "neither an address"} {
		args := step.FaultArgs{ID: "d"}
		if allow != "" {
			args.Allow = []string{allow}
		}
		if _, err := cutRules(args); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("allow %q gives %v", allow, err)
		}
	}
}

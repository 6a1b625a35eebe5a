package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"holdfast/internal/step"
)

// cutRules is the nftables script of a cut: everything over a network is dropped but what is allowed. Loopback stays,
// so that the node's own parts still find each other, and goes on to serve nobody outside.
func cutRules(args step.FaultArgs) (string, error) {
	var in, out []string
	for _, allowed := range args.Allow {
		from, to, err := allowRules(allowed)
		if err != nil {
			return "", err
		}
		in, out = append(in, from), append(out, to)
	}
	if len(in) == 0 {
		return "", errors.New("a cut must allow a way to manage the node")
	}
	table := cutTable(args.ID)
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s\ndelete table inet %s\ntable inet %s {\n", table, table, table)
	chain := func(hook, loopback string, rules []string) {
		fmt.Fprintf(&b, "\tchain %s {\n\t\ttype filter hook %s priority -300; policy accept;\n", hook, hook)
		if loopback != "" {
			fmt.Fprintf(&b, "\t\t%s accept\n", loopback)
		}
		for _, rule := range rules {
			fmt.Fprintf(&b, "\t\t%s accept\n", rule)
		}
		b.WriteString("\t\tcounter drop\n\t}\n")
	}
	chain("input", `iifname "lo"`, in)
	chain("output", `oifname "lo"`, out)
	chain("forward", "", nil)
	b.WriteString("}\n")
	return b.String(), nil
}

// allowRules turns an address, a network or address:port into what may come in and what may go out.
func allowRules(allowed string) (in, out string, err error) {
	if at, err := netip.ParseAddrPort(allowed); err == nil {
		family := familyOf(at.Addr())
		return fmt.Sprintf("%s saddr %s tcp sport %d", family, at.Addr(), at.Port()), fmt.Sprintf("%s daddr %s tcp dport %d", family, at.Addr(), at.Port()), nil
	}
	if prefix, err := netip.ParsePrefix(allowed); err == nil {
		family := familyOf(prefix.Addr())
		return fmt.Sprintf("%s saddr %s", family, prefix), fmt.Sprintf("%s daddr %s", family, prefix), nil
	}
	if addr, err := netip.ParseAddr(allowed); err == nil && addr.Zone() == "" {
		family := familyOf(addr)
		return fmt.Sprintf("%s saddr %s", family, addr), fmt.Sprintf("%s daddr %s", family, addr), nil
	}
	return "", "", fmt.Errorf("%q is neither an address, nor a network, nor address:port", allowed)
}

func familyOf(addr netip.Addr) string {
	if addr.Unmap().Is4() {
		return "ip"
	}
	return "ip6"
}

package servers

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// State is what is seen of one server, in words.
type State struct {
	Site, Name, Address string
	Power               string // on, off
	Link                string // plugged, unplugged; and cut when its site is
	Reached             string // yes, no: whether its sshd answers this machine
	Disk                string // how full: 37%; "-" when it is off
	For                 string // its duty, or the roles of its agent
}

// Status looks at every server.
func (l *Lab) Status(ctx context.Context) ([]State, error) {
	cuts, err := l.cuts(ctx)
	if err != nil {
		return nil, err
	}
	states := make([]State, len(l.servers))
	index := map[*Server]int{}
	for i, s := range l.servers {
		index[s] = i
	}
	err = l.each(func(s *Server) error {
		states[index[s]] = s.state(ctx, cuts)
		return ctx.Err()
	})
	return states, err
}

func (s *Server) state(ctx context.Context, cuts [][]string) State {
	state := State{Site: s.Site, Name: s.Name, Address: s.Address.String(), Power: "off", Link: "plugged", Reached: "no", Disk: "-", For: string(s.Duty)}
	if len(s.Roles) > 0 {
		state.For = strings.Join(s.Roles, ",")
	}
	if _, err := os.Stat(s.unplugged()); err == nil {
		state.Link = "unplugged"
	}
	for _, cut := range cuts {
		if slices.Contains(cut, s.Site) {
			state.Link += ", " + cutWord(s.Site, cut)
		}
	}
	if !s.On() {
		return state
	}
	state.Power = "on"
	if s.Answers(ctx, 22) == nil {
		state.Reached = "yes"
	}
	if used, err := s.Run(ctx, "df", "--output=pcent", "/"); err == nil {
		state.Disk = strings.TrimSpace(strings.TrimPrefix(used, "Use%"))
	}
	return state
}

// cutWord says what a cut is for one of its sites.
func cutWord(site string, cut []string) string {
	for _, other := range cut {
		if other != site {
			return "cut from " + other
		}
	}
	return "cut"
}

// Answers asks whether a TCP port of the server accepts from this machine, within a second.
func (s *Server) Answers(ctx context.Context, port int) error {
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(s.Address.String(), fmt.Sprint(port)))
	if err != nil {
		return err
	}
	return conn.Close()
}

// Tell says to people what there is to try.
func (l *Lab) Tell(out io.Writer) error {
	var b strings.Builder
	name := ""
	if l.Name != "lab" {
		name = " --name " + l.Name
	}
	if l.Bin != "" {
		fmt.Fprintf(&b, "\n  export HOLDFAST_CONTEXT=%s\n  %s get nodes\n  %s                      # the web; enter with the token in that file\n",
			l.Context(), filepath.Join(l.Bin, "holdfast"), l.URL())
	}
	if mail := l.Services().Mail; mail != "" {
		fmt.Fprintf(&b, "  %s                     # the mail that was sent\n", mail)
	}
	fmt.Fprintf(&b, "\n  holdfast-lab status%s\n", name)
	first := l.servers[0]
	fmt.Fprintf(&b, "  holdfast-lab sh%s %s                # a shell on a server, docker included\n", name, first.Name)
	fmt.Fprintf(&b, "  ssh %s root@%s\n", strings.Join(first.SSHArgs()[:4], " "), first.Address)
	fmt.Fprintf(&b, "  holdfast-lab cut%s %s; holdfast-lab heal%s %s\n", name, first.Site, name, first.Site)
	fmt.Fprintf(&b, "  holdfast-lab kill%s %s; holdfast-lab up%s %s\n", name, first.Name, name, first.Name)
	fmt.Fprintf(&b, "  holdfast-lab down%s\n", name)
	_, err := io.WriteString(out, b.String())
	return err
}

package servers

import (
	"context"
	"fmt"
)

// ballast is the file that fills a server's disk.
const ballast = "/var/lib/holdfast-lab-ballast"

// Fill takes the room of the server's disk but for leaveMB; with 0 not one byte is left, for root neither. It takes no
// room on this machine.
func (s *Server) Fill(ctx context.Context, leaveMB int) error {
	// The ballast needs a few blocks to be noted in; what it leaves of them is filled byte by byte.
	script := fmt.Sprintf(`
rm -f %[1]s %[1]s.rest
take=$(( ($(df --output=avail --block-size=1M / | tail -n 1) - %[2]d - 16 * (%[2]d == 0)) * 1048576 ))
[ $take -le 0 ] || fallocate -l $take %[1]s
[ %[2]d -gt 0 ] || { cat /dev/zero >%[1]s.rest || true; } 2>/dev/null`, ballast, leaveMB)
	_, err := s.Run(ctx, "sh", "-ec", script)
	return err
}

// Free gives the room back that Fill took.
func (s *Server) Free(ctx context.Context) error {
	_, err := s.Run(ctx, "rm", "-f", ballast, ballast+".rest")
	return err
}

// FreeMB is how much room the server's disk has.
func (s *Server) FreeMB(ctx context.Context) (int, error) {
	out, err := s.Run(ctx, "sh", "-ec", "df --output=avail --block-size=1M / | tail -n 1")
	if err != nil {
		return 0, err
	}
	var free int
	_, err = fmt.Sscan(out, &free)
	return free, err
}

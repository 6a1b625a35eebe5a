package agent_test

import (
	"context"
	"net"
	"testing"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/fleet"
)

// A port that takes a caller and hangs up, as a proxy does for a service that is not there yet, is not ready; one
// that waits for the caller to speak is.
func TestTCPProbeIsNotFooledByAProxy(t *testing.T) {
	for name, c := range map[string]struct {
		serve func(net.Conn)
		well  bool
	}{
		"hangs up":     {func(c net.Conn) { _ = c.Close() }, false},
		"speaks first": {func(c net.Conn) { _, _ = c.Write([]byte("220 hello\r\n")) }, true},
		"waits":        {func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			go func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					c.serve(conn)
				}
			}()
			service := fleet.Service{Name: "db", Ports: []fleet.Port{{Name: "sql"}}}
			slot := agent.Slot{Ports: map[string]int{"db.sql": listener.Addr().(*net.TCPAddr).Port}}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := slot.Ask(ctx, nil, "127.0.0.1", service, 1, &fleet.Probe{TCP: true}); (err == nil) != c.well {
				t.Errorf("asked: %v", err)
			}
		})
	}
}

package exec_test

import (
	"testing"

	"holdfast/internal/agent"
	"holdfast/internal/agent/agenttest"
	"holdfast/internal/agent/exec"
	"holdfast/internal/fleet"
	"strconv"
)

func TestEngine(t *testing.T) {
	program := agenttest.Build(t)
	agenttest.RunEngine(t, agenttest.Bench{
		Open:  func(*testing.T) agent.Engine { return exec.New(exec.Config{Node: "n1"}) },
		Leave: func(e agent.Engine) { e.(*exec.Engine).Close() },
		Service: func(name string) fleet.Service {
			return fleet.Service{Name: name, Artifact: program, Command: []string{"serve"}}
		},
		Listen:  func(port int) string { return "127.0.0.1:" + strconv.Itoa(port) },
		State:   func(slot agent.Slot) string { return slot.States["data"] },
		Missing: func(s fleet.Service) fleet.Service { s.Artifact += "-absent"; return s },
	})
}

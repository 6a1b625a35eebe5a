package step

import "fmt"

// Planned is one step of an operation before it is ordered: where it runs and what it waits for.
type Planned struct {
	ID    string   `json:"id"`   // unique in its graph: "acme/boot"
	Node  string   `json:"node"` // "" = the server does it; "@claim:ID" = the node that the claim step ID chose
	Needs []string `json:"needs,omitempty"`
	Step  Step     `json:"step"`

	// OnFailure makes it a step that clears up: it runs once all it needs has come to an end and some of that was
	// tried and did not end done; otherwise it is skipped.
	OnFailure bool `json:"on_failure,omitempty"`
}

// Graph is the steps of an operation. Its order is the order they are shown in.
type Graph []Planned

// Validate refuses a graph with a doubled id, a need that is not in it, or a cycle.
func (g Graph) Validate() error {
	known := map[string]Planned{}
	for _, p := range g {
		if _, twice := known[p.ID]; twice {
			return fmt.Errorf("graph: step %s stands twice", p.ID)
		}
		known[p.ID] = p
	}
	for _, p := range g {
		for _, need := range p.Needs {
			if _, ok := known[need]; !ok {
				return fmt.Errorf("graph: step %s needs %s, which is not in the graph", p.ID, need)
			}
		}
	}
	return acyclic(g, known)
}

func acyclic(g Graph, known map[string]Planned) error {
	const open, closed = 1, 2
	mark := map[string]int{}
	var visit func(id string) error
	visit = func(id string) error {
		switch mark[id] {
		case open:
			return fmt.Errorf("graph: step %s waits for itself", id)
		case closed:
			return nil
		}
		mark[id] = open
		for _, need := range known[id].Needs {
			if err := visit(need); err != nil {
				return err
			}
		}
		mark[id] = closed
		return nil
	}
	for _, p := range g {
		if err := visit(p.ID); err != nil {
			return err
		}
	}
	return nil
}

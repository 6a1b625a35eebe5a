package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"holdfast/internal/link"
	"holdfast/internal/step"
)

// record is what a node must never forget of an instance; it is active.json.
type record struct {
	Slot    string         `json:"slot"`    // the active slot; "" = none
	Epoch   int64          `json:"epoch"`   // under which the slot became active
	Held    int64          `json:"held"`    // newest epoch up to which this node is known to be the only holder since
	Lease   step.FenceArgs `json:"lease"`   // newest word on who serves
	Fenced  bool           `json:"fenced"`  // somebody else may hold newer data
	Told    bool           `json:"told"`    // the fence was told, after all had stopped
	Called  int64          `json:"called"`  // epoch at which the fenced slot was ordered to boot again here; 0 = never
	Stopped stopping       `json:"stopped"` // on order
	Why     string         `json:"why,omitempty"`
	Past    []string       `json:"past,omitempty"` // slots that were active once; their data is kept

	Serving     bool         `json:"serving"` // between serving_started and serving_stopped
	ServingFrom time.Time    `json:"serving_from,omitzero"`
	ServedUntil time.Time    `json:"served_until,omitzero"`
	Untold      []link.Event `json:"untold,omitempty"` // events that may not have been emitted yet
}

// stopping says how long a stopped instance stays stopped.
type stopping string

const (
	notStopped  stopping = ""
	stoppedOnce stopping = "once"    // until the agent starts again
	stoppedLong stopping = "retired" // until a boot is ordered
)

// hears is the node's answer to a lease: the record afterwards, and whether what serves must stop. Self is this
// node. A node that was the holder at one epoch and is again at the next had no other in between; after a gap it
// cannot know, and takes its data for old.
func (r record) hears(lease step.FenceArgs, self string) (record, bool) {
	if lease.Epoch < r.Lease.Epoch {
		return r, false
	}
	r.Lease = lease
	if r.Slot == "" || r.Fenced {
		return r, false
	}
	if lease.Node == self && lease.Epoch <= r.Held+1 {
		r.Held = max(r.Held, lease.Epoch)
		return r, false
	}
	r.Fenced = true
	return r, true
}

// mayServe tells whether the active slot may serve on self, as far as the node has heard.
func (r record) mayServe(self string) bool {
	return r.Slot != "" && !r.Fenced && r.Stopped == notStopped && (r.Lease.Node == self || r.Lease.Node == "")
}

// calledBack tells whether the fenced active slot may run on self, though not serve, until a switch says that it does:
// its holder of this very epoch was ordered to boot it.
func (r record) calledBack(self string) bool {
	return r.Called != 0 && r.Called == r.Lease.Epoch && r.Lease.Node == self
}

// begins serving at now.
func (r record) begins(instance string, now time.Time) record {
	if r.Serving {
		return r
	}
	r.Serving, r.ServingFrom, r.ServedUntil = true, now, time.Time{}
	return r.tells(link.Event{Kind: "serving_started", Instance: instance, Epoch: r.Epoch, At: now, Labels: map[string]string{"slot": r.Slot}})
}

// ends serving; at is the last moment it could have taken a write.
func (r record) ends(instance, why string, at time.Time) record {
	if !r.Serving {
		return r
	}
	r.Serving, r.ServedUntil = false, at
	return r.tells(link.Event{Kind: "serving_stopped", Instance: instance, Epoch: r.Epoch, Note: why, At: at, Labels: map[string]string{"slot": r.Slot}})
}

func (r record) tells(event link.Event) record {
	r.Untold = append(slices.Clone(r.Untold), event)
	return r
}

// settles closes the account of a fenced instance once nothing of it runs; at is the last moment it could have taken
// a write, now when the fence is complete.
func (r record) settles(instance string, at, now time.Time) record {
	r = r.ends(instance, "fenced", at)
	if !r.Fenced || r.Told {
		return r
	}
	r.Told = true
	return r.tells(link.Event{
		Kind: "fenced", Instance: instance, Epoch: r.Epoch, At: now, Labels: map[string]string{"slot": r.Slot},
		Note: fmt.Sprintf("epoch %d belongs to node %s", r.Lease.Epoch, r.Lease.Node),
	})
}

// switches makes slot the active one.
func (r record) switches(slot string, epoch int64, self string) record {
	if r.Slot != "" && r.Slot != slot && !slices.Contains(r.Past, r.Slot) {
		r.Past = append(slices.Clone(r.Past), r.Slot)
	}
	r.Slot, r.Epoch, r.Held = slot, epoch, epoch
	r.Lease = step.FenceArgs{Epoch: max(epoch, r.Lease.Epoch), Node: self}
	r.Fenced, r.Told, r.Stopped, r.Why = false, false, notStopped, ""
	return r
}

func readRecord(path string) (record, error) {
	var r record
	body, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return r, fmt.Errorf("read record: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		return r, fmt.Errorf("read record %s: %w", path, err)
	}
	return r, nil
}

// writeJSON replaces a file by the JSON of value, durably and in one piece.
func writeJSON(path string, value any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	return writeDurable(path, body)
}

// writeDurable replaces a file so that a power loss leaves the old or the new one. Only the owner may read it.
func writeDurable(path string, body []byte) error {
	if err := writeSynced(path+".new", body); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("replace %s: %w", filepath.Base(path), err)
	}
	return syncDir(filepath.Dir(path))
}

// WriteDurable replaces a file so that a power loss leaves the old or the new one. Only the owner may read it.
func WriteDurable(path string, body []byte) error { return writeDurable(path, body) }

func writeSynced(path string, body []byte) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	_, err = file.Write(body)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("sync directory %s: %w", path, err)
	}
	return nil
}

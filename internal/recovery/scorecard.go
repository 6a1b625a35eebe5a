package recovery

import "time"

// Scorecard is what a run measured. Its JSON is scorecard.json. A nil number was not measured.
type Scorecard struct {
	ID       string    `json:"id"`
	Kind     Kind      `json:"kind"`
	Plan     string    `json:"plan"`
	Scenario string    `json:"scenario"`
	Verdict  string    `json:"verdict"` // pass or fail
	Reasons  []string  `json:"reasons"` // why it did not pass; empty when it did
	Unknown  []string  `json:"unknown"` // what was not measured
	Fault    FaultCard `json:"fault"`

	DetectSeconds    *float64 `json:"detect_seconds"`    // fault until the probes' verdict
	DeclareSeconds   *float64 `json:"declare_seconds"`   // verdict until the recovery was ordered
	RecoverSeconds   *float64 `json:"recover_seconds"`   // ordered until the last instance was back to normal
	DowntimeSeconds  Summary  `json:"downtime_seconds"`  // per instance, seen from outside
	RestoreSeconds   Summary  `json:"restore_seconds"`   // per instance, first step until last
	DataLossSeconds  Summary  `json:"data_loss_seconds"` // per instance, fault back to the newest restored canary
	TwoWriterSeconds *float64 `json:"two_writer_seconds"`
	ManualCommands   *int     `json:"manual_commands"`
	ChecksPassed     int      `json:"checks_passed"`
	ChecksRequired   int      `json:"checks_required"`
	Counts
	FencedAfterReturn *bool `json:"fenced_after_return"` // nil while the lost nodes have not come back

	DeclaredAt time.Time      `json:"declared_at,omitzero"`
	ScoredAt   time.Time      `json:"scored_at"`
	Commands   []Command      `json:"commands"`
	Instances  []InstanceCard `json:"instances"`
}

// FaultCard says what happened to the scope. From equals To for a fault that a drill fired.
type FaultCard struct {
	Kind     string     `json:"kind"` // cut, kill, stop; "" = not ours
	From     *time.Time `json:"from"`
	To       *time.Time `json:"to"`
	UndoneAt *time.Time `json:"undone_at"`
	Residue  *string    `json:"residue"` // nil = not looked; "" = clean
}

// Summary describes one number over all instances, by the nearest rank. Unknown counts the instances without it.
type Summary struct {
	P50      *float64 `json:"p50"`
	P95      *float64 `json:"p95"`
	Max      *float64 `json:"max"`
	Measured int      `json:"measured"`
	Unknown  int      `json:"unknown"`
}

// InstanceCard is one instance's part.
type InstanceCard struct {
	Name     string `json:"name"`
	Tier     string `json:"tier"`
	FromNode string `json:"from_node"`
	ToNode   string `json:"to_node"`
	Snapshot string `json:"snapshot"`

	DetectSeconds    *float64  `json:"detect_seconds"`
	DowntimeSeconds  *float64  `json:"downtime_seconds"`
	DowntimeError    *float64  `json:"downtime_error_seconds"` // the probes' interval
	RestoreSeconds   *float64  `json:"restore_seconds"`
	WaitingSeconds   *float64  `json:"waiting_seconds"` // of the restore: no step of it ran. With what the bars cover it is restore_seconds
	DataLossSeconds  *float64  `json:"data_loss_seconds"`
	TwoWriterSeconds *float64  `json:"two_writer_seconds"`
	RTOSeconds       float64   `json:"rto_seconds"` // promised; 0 = nothing promised
	RPOSeconds       float64   `json:"rpo_seconds"`
	DownFrom         time.Time `json:"down_from,omitzero"`
	DownTo           time.Time `json:"down_to,omitzero"`

	ChecksPassed   int         `json:"checks_passed"`
	ChecksRequired int         `json:"checks_required"`
	Checks         []CheckCard `json:"checks"`
	Steps          []StepCard  `json:"steps"`
	Notes          []string    `json:"notes"`
}

// CheckCard is one thing that "back to normal" asks for.
type CheckCard struct {
	Name     string `json:"name"`
	Passed   int    `json:"passed"`
	Required int    `json:"required"`
	Note     string `json:"note,omitempty"`
}

// StepCard is one bar of the waterfall: place, fetch, load, boot, ready, checks or edge.
type StepCard struct {
	Name    string    `json:"name"`
	Start   time.Time `json:"start"`
	End     time.Time `json:"end,omitzero"` // zero: it has not ended
	Seconds *float64  `json:"seconds"`
	State   string    `json:"state"` // done, failed, running
}

// Pass and Fail are the verdicts.
const (
	Pass = "pass"
	Fail = "fail"
)

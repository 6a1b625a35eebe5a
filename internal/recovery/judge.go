package recovery

import "fmt"

// unknowns lists what the events do not tell.
func unknowns(c Scorecard) []string {
	list := []string{}
	note := func(missing bool, what string) {
		if missing {
			list = append(list, what)
		}
	}
	note(c.Fault.From == nil, "when the fault happened")
	note(c.DetectSeconds == nil, "time to detect")
	note(c.DeclareSeconds == nil, "time to declare")
	note(c.DowntimeSeconds.Unknown > 0, fmt.Sprintf("downtime of %d of %d instances", c.DowntimeSeconds.Unknown, len(c.Instances)))
	note(c.DataLossSeconds.Unknown > 0, fmt.Sprintf("data loss of %d of %d instances", c.DataLossSeconds.Unknown, len(c.Instances)))
	note(c.TwoWriterSeconds == nil, "whether two sites could have taken writes")
	note(c.ManualCommands == nil, "manual commands")
	note(c.FencedAfterReturn == nil, "whether the lost nodes stay fenced: not all have come back")
	note(c.DocumentsFound == nil, "documents: nobody counted")
	note(c.FilesFound == nil, "files: nobody counted")
	return list
}

// reasons lists why the run did not pass. In a drill everything is under our hand, so an unknown is a failure; after
// a real loss the lost site may never come back, and what only it could tell does not fail the recovery.
func reasons(c Scorecard) []string {
	list := []string{}
	fail := func(failed bool, format string, args ...any) {
		if failed {
			list = append(list, fmt.Sprintf(format, args...))
		}
	}
	fail(len(c.Instances) == 0, "no instance was in scope")
	fail(c.Fault.From == nil, "it is not known when the fault happened")
	fail(c.DetectSeconds == nil, "the probes did not see the fault")
	fail(c.Kind == Drill && c.Fault.UndoneAt == nil, "the end of the fault was not confirmed")
	fail(c.Fault.Residue != nil && *c.Fault.Residue != "", "the fault left something behind: %s", value(c.Fault.Residue))
	fail(exceeds(c.TwoWriterSeconds, 0), "two sites could have taken writes for %.1f s", value(c.TwoWriterSeconds))
	fail(c.Kind == Drill && c.TwoWriterSeconds == nil, "it is not known whether two sites could have taken writes")
	fail(c.ManualCommands == nil, "it is not known how many commands people gave by hand")
	fail(value(c.ManualCommands) > 0, "people gave %d commands by hand", value(c.ManualCommands))
	fail(c.FencedAfterReturn != nil && !*c.FencedAfterReturn, "a node that came back served an instance that lives elsewhere")
	fail(c.Kind == Drill && c.FencedAfterReturn == nil, "it is not known whether the lost nodes stay fenced")
	fail(short(c.DocumentsExpected, c.DocumentsFound), "%d of %d documents were found", value(c.DocumentsFound), value(c.DocumentsExpected))
	fail(short(c.FilesExpected, c.FilesFound), "%d of %d files were found", value(c.FilesFound), value(c.FilesExpected))
	for _, i := range c.Instances {
		list = append(list, instanceReasons(i)...)
	}
	return list
}

func instanceReasons(i InstanceCard) []string {
	list := []string{}
	fail := func(failed bool, format string, args ...any) {
		if failed {
			list = append(list, i.Name+": "+fmt.Sprintf(format, args...))
		}
	}
	fail(i.RestoreSeconds == nil, "it was not restored to the end")
	fail(i.DowntimeSeconds == nil, "its downtime is not known")
	fail(i.DataLossSeconds == nil, "its data loss is not known")
	fail(i.RTOSeconds > 0 && exceeds(i.DowntimeSeconds, i.RTOSeconds), "it was down for %.1f s, the plan allows %.1f s", value(i.DowntimeSeconds), i.RTOSeconds)
	fail(i.RPOSeconds > 0 && exceeds(i.DataLossSeconds, i.RPOSeconds), "it lost %.1f s of data, the plan allows %.1f s", value(i.DataLossSeconds), i.RPOSeconds)
	for _, c := range i.Checks {
		fail(c.Passed < c.Required, "check %s passed %d of %d: %s", c.Name, c.Passed, c.Required, c.Note)
	}
	return list
}

func exceeds(v *float64, limit float64) bool { return v != nil && *v > limit }

// short tells whether fewer were found than expected; what nobody counted is not short.
func short(expected, found *int64) bool {
	return expected != nil && (found == nil || *found < *expected)
}

// value is what p points to, or the zero value.
func value[T any](p *T) T {
	var zero T
	if p == nil {
		return zero
	}
	return *p
}

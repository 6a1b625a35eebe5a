package fleet

import (
	"maps"
	"slices"
	"strconv"
)

// change sees one text of a spec at its path in the product's document and gives what stands there instead.
type change func(path []string, text string) (string, error)

// eachText applies c to every text of a spec that may hold references. Maps, lists and pointers are replaced, never
// written to, so that what the spec was made from stays as it is.
func eachText(spec *Spec, c change) error {
	spec.Services = slices.Clone(spec.Services)
	for i := range spec.Services {
		if err := spec.Services[i].each(c); err != nil {
			return err
		}
	}
	for i := range spec.State {
		path := []string{"x-holdfast", "state", spec.State[i].Name}
		if err := firstError(spec.State[i].Dump.each(path, c), spec.State[i].Load.each(path, c)); err != nil {
			return err
		}
	}
	for i := range spec.Invariants {
		if err := spec.Invariants[i].each(c); err != nil {
			return err
		}
	}
	return eachHook(spec, c)
}

func eachHook(spec *Spec, c change) error {
	hooks := map[string]Command{}
	for _, name := range slices.Sorted(maps.Keys(spec.Hooks)) {
		hook := spec.Hooks[name]
		if err := hook.each([]string{"x-holdfast", "hooks", name, "args"}, c); err != nil {
			return err
		}
		hooks[name] = hook
	}
	if len(hooks) > 0 {
		spec.Hooks = hooks
	}
	return nil
}

func (s *Service) each(c change) error {
	at := func(below ...string) []string { return append([]string{"services", s.Name}, below...) }
	var errs [7]error
	s.Archive, errs[6] = c(at("x-holdfast", "archive"), s.Archive)
	s.Image, errs[0] = c(at("image"), s.Image)
	s.Artifact, errs[1] = c(at("x-holdfast", "artifact"), s.Artifact)
	s.Command, errs[2] = eachOf(s.Command, at("command"), c)
	s.Env, errs[3] = eachIn(s.Env, at("environment"), c)
	s.Readiness, errs[4] = s.Readiness.each(at("x-holdfast", "readiness"), c)
	s.Liveness, errs[5] = s.Liveness.each(at("x-holdfast", "liveness"), c)
	return firstError(errs[:]...)
}

func (p *Probe) each(path []string, c change) (*Probe, error) {
	if p == nil {
		return nil, nil
	}
	changed := *p
	var errs [3]error
	changed.HTTP, errs[0] = c(append(slices.Clone(path), "http"), p.HTTP)
	changed.Args, errs[1] = eachOf(p.Args, append(slices.Clone(path), "args"), c)
	changed.Headers, errs[2] = eachIn(p.Headers, append(slices.Clone(path), "headers"), c)
	return &changed, firstError(errs[:]...)
}

func (i *Invariant) each(c change) error {
	path := []string{"x-holdfast", "invariants", i.Name}
	var err error
	i.HTTP, err = c(append(slices.Clone(path), "http"), i.HTTP)
	return firstError(err, i.Command.each(append(slices.Clone(path), "command", "args"), c))
}

func (c *Command) each(path []string, change change) error {
	var err error
	c.Args, err = eachOf(c.Args, path, change)
	return err
}

func eachOf(list []string, path []string, c change) ([]string, error) {
	if list == nil {
		return nil, nil
	}
	changed := make([]string, len(list))
	for i, text := range list {
		var err error
		if changed[i], err = c(append(slices.Clone(path), strconv.Itoa(i)), text); err != nil {
			return nil, err
		}
	}
	return changed, nil
}

func eachIn(texts map[string]string, path []string, c change) (map[string]string, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	changed := make(map[string]string, len(texts))
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		var err error
		if changed[name], err = c(append(slices.Clone(path), name), texts[name]); err != nil {
			return nil, err
		}
	}
	return changed, nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

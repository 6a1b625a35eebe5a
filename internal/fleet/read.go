package fleet

type lines map[string]int
type stack struct{}

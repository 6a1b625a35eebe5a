package audit

// Leaf gives the tests a record's canonical bytes.
func Leaf(r Record) []byte { return r.leaf() }

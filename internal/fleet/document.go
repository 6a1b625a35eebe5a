package fleet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// document is one YAML document as plain data, with the line of everything in it.
type document struct {
	Origin
	kind Kind
	name string
	tree map[string]any // string, bool, json.Number, nil, []any, map[string]any
}

// lines gives the line of each key and list element of a document, by its path joined with "/".
type lines map[string]int

// line is where path stands, or the nearest thing around it.
func (o Origin) line(path []string) int {
	for n := len(path); n > 0; n-- {
		if at, ok := o.lines[strings.Join(path[:n], "/")]; ok {
			return at
		}
	}
	return o.Line
}

// canonical is the content alone: same data, same bytes.
func (d document) canonical() []byte {
	data, err := json.Marshal(d.tree)
	if err != nil {
		panic(fmt.Sprintf("fleet: a tree of plain data did not marshal: %v", err)) // tree holds nothing that cannot
	}
	return data
}

// parse splits one file into its documents and notes what is not YAML.
func (r *reader) parse(file string, content []byte) []document {
	var all []document
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	for {
		var node yaml.Node
		err := decoder.Decode(&node)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			r.notYAML(file, err)
			return all
		}
		if d, ok := r.document(file, &node); ok {
			all = append(all, d)
		}
	}
}

var yamlLine = regexp.MustCompile(`(at )?line (\d+)(, column \d+)?:? *`)

// notYAML notes a syntax error. The YAML library gives the line inside its text.
func (r *reader) notYAML(file string, err error) {
	line, text := 1, err.Error()
	if match := yamlLine.FindStringSubmatch(text); match != nil {
		line, _ = strconv.Atoi(match[2]) // the pattern allows digits only
		text = yamlLine.ReplaceAllString(text, "")
	}
	text = strings.TrimSpace(strings.TrimPrefix(text, "yaml:"))
	r.wrong(Origin{File: file, Line: line, subject: "not YAML"}, nil, "correct the syntax at this line or the one above", "%s", text)
}

// document turns a node into plain data; an empty document is none.
func (r *reader) document(file string, node *yaml.Node) (document, bool) {
	root := node
	if node.Kind == yaml.DocumentNode && len(node.Content) == 1 {
		root = node.Content[0]
	}
	d := document{Origin: Origin{File: file, Line: root.Line, lines: lines{}, subject: "document"}}
	if root.Kind == yaml.ScalarNode && root.ShortTag() == "!!null" {
		return d, false
	}
	c := conversion{reader: r, origin: d.Origin}
	tree, ok := c.convert(root, nil, 0).(map[string]any)
	if !ok {
		r.wrong(d.Origin, nil, "begin it with `kind:`", "is not a mapping")
		return d, false
	}
	d.tree = tree
	return d, r.identify(&d)
}

// identify finds the kind and the name of d.
func (r *reader) identify(d *document) bool {
	kind, _ := d.tree["kind"].(string)
	if kind == "" {
		r.wrong(d.Origin, []string{"kind"}, "add `kind:` with one of "+kindNames(), "has no kind")
		return false
	}
	d.kind = Kind(kind)
	if !slices.Contains(Kinds(), d.kind) {
		r.wrong(d.Origin, []string{"kind"}, meant(kind, strings.Split(kindNames(), ", ")), "kind %q is not known", kind)
		return false
	}
	d.name, _ = d.tree["name"].(string)
	d.subject = strings.TrimSpace(kind + " " + d.name)
	return true
}

func kindNames() string {
	names := make([]string, len(Kinds()))
	for i, kind := range Kinds() {
		names[i] = string(kind)
	}
	return strings.Join(names, ", ")
}

// maxDepth bounds nesting, and with it aliases that hold themselves.
const maxDepth = 32

// conversion turns nodes into plain data and fills origin.lines.
type conversion struct {
	reader *reader
	origin Origin
	nodes  int
}

// maxNodes bounds one document, and with it aliases that multiply ("billion laughs").
const maxNodes = 100_000

func (c *conversion) convert(node *yaml.Node, path []string, depth int) any {
	c.nodes++
	if depth > maxDepth || c.nodes > maxNodes {
		if c.nodes <= maxNodes || c.nodes == maxNodes+1 {
			c.reader.wrong(c.origin, path, "write it flatter", "is nested too deeply or repeats itself through aliases")
		}
		return nil
	}
	switch node.Kind {
	case yaml.MappingNode:
		return c.mapping(node, path, depth)
	case yaml.SequenceNode:
		return c.sequence(node, path, depth)
	case yaml.AliasNode:
		return c.convert(node.Alias, path, depth+1)
	case yaml.ScalarNode:
		return scalar(node)
	default:
		return nil
	}
}

func (c *conversion) sequence(node *yaml.Node, path []string, depth int) []any {
	list := make([]any, len(node.Content))
	for i, item := range node.Content {
		below := append(slices.Clone(path), strconv.Itoa(i))
		c.origin.lines[strings.Join(below, "/")] = item.Line
		list[i] = c.convert(item, below, depth+1)
	}
	return list
}

// mapping reads the keys in order; those of a merge (<<) never replace written ones.
func (c *conversion) mapping(node *yaml.Node, path []string, depth int) map[string]any {
	result := map[string]any{}
	first := map[string]int{}
	var merged []any
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if key.ShortTag() == "!!merge" {
			merged = append(merged, c.convert(value, path, depth+1))
			continue
		}
		below := append(slices.Clone(path), key.Value)
		if line, twice := first[key.Value]; twice {
			c.reader.wrong(Origin{File: c.origin.File, Line: key.Line, subject: c.origin.subject}, nil,
				fmt.Sprintf("keep one of the two; the first stands at line %d", line), "key %q stands twice", dotted(below))
			continue
		}
		first[key.Value] = key.Line
		c.origin.lines[strings.Join(below, "/")] = key.Line
		result[key.Value] = c.convert(value, below, depth+1)
	}
	for _, m := range merged {
		merge(result, m)
	}
	return result
}

// merge adds what m, a mapping or a list of mappings, has and result has not.
func merge(result map[string]any, m any) {
	switch m := m.(type) {
	case map[string]any:
		for key, value := range m {
			if _, written := result[key]; !written {
				result[key] = value
			}
		}
	case []any:
		for _, item := range m {
			merge(result, item)
		}
	}
}

var jsonNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$`)

// scalar keeps a number as it was written where JSON has the same form for it.
func scalar(node *yaml.Node) any {
	switch node.ShortTag() {
	case "!!null":
		return nil
	case "!!bool":
		return strings.EqualFold(node.Value, "true")
	case "!!int", "!!float":
		if jsonNumber.MatchString(node.Value) {
			return json.Number(node.Value)
		}
		var whole int64
		if node.Decode(&whole) == nil {
			return json.Number(strconv.FormatInt(whole, 10))
		}
	}
	return node.Value
}

// dotted writes a path as people do: backup.every, services.api.ports[0].
func dotted(path []string) string {
	var out strings.Builder
	for i, part := range path {
		switch _, err := strconv.Atoi(part); {
		case err == nil && i > 0:
			out.WriteString("[" + part + "]")
		case i == 0:
			out.WriteString(part)
		default:
			out.WriteString("." + part)
		}
	}
	return out.String()
}

// meant is the hint for a word that is not among known: the nearest one, or all of them.
func meant(word string, known []string) string {
	known = slices.Compact(slices.Sorted(slices.Values(known)))
	best, distance := "", len(word)/3+2
	for _, candidate := range known {
		if d := editDistance(word, candidate); d < distance {
			best, distance = candidate, d
		}
	}
	all := strings.Join(known, ", ")
	switch {
	case len(known) == 0:
		return "nothing can stand here"
	case best == "":
		return "write one of: " + all
	}
	return fmt.Sprintf("did you mean %q? known: %s", best, all)
}

// editDistance counts the letters to insert, remove or replace to get from a to b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := before
			if a[i] != b[j] {
				replaced++
			}
			before = row[j+1]
			row[j+1] = min(replaced, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}

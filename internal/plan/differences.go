package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"holdfast/internal/fleet"
)

// sealed stands where a secret would.
const sealed = "[sealed]"

// Differences names every value that differs between two specs of one instance, by its path.
func Differences(from, to fleet.Spec) []Difference {
	before, after := flat(from), flat(to)
	names := maps.Clone(before)
	maps.Copy(names, after)
	all := []Difference{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if before[name] != after[name] {
			all = append(all, difference(name, before[name], after[name]))
		}
	}
	return all
}

// difference seals secrets and shortens keys.
func difference(name, from, to string) Difference {
	switch {
	case strings.HasPrefix(name, "secrets."):
		return Difference{Name: name, From: sealOf(from), To: sealOf(to)}
	case strings.HasPrefix(name, "backup.recipients"):
		return Difference{Name: name, From: keyOf(from), To: keyOf(to)}
	}
	return Difference{Name: name, From: from, To: to}
}

func sealOf(text string) string {
	if text == "" {
		return ""
	}
	return sealed
}

func keyOf(armored string) string {
	if armored == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(armored))
	return "public key " + hex.EncodeToString(sum[:4])
}

// flat gives every value of a spec by its path. Elements of a list that have a name stand under it.
func flat(spec fleet.Spec) map[string]string {
	spec.Fingerprint = ""
	data, err := json.Marshal(spec)
	if err != nil {
		panic(fmt.Sprintf("plan: a spec did not marshal: %v", err)) // plain data
	}
	var tree map[string]any
	if err := json.Unmarshal(data, &tree); err != nil {
		panic(fmt.Sprintf("plan: a spec did not parse: %v", err)) // written just above
	}
	all := map[string]string{}
	flatten(all, "", tree)
	return all
}

func flatten(all map[string]string, path string, node any) {
	switch node := node.(type) {
	case map[string]any:
		for key, below := range node {
			flatten(all, join(path, key), below)
		}
	case []any:
		for i, below := range node {
			flatten(all, join(path, element(i, below)), below)
		}
	case nil:
	default:
		if text := scalar(path, node); text != "" {
			all[path] = text
		}
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func element(i int, node any) string {
	if named, ok := node.(map[string]any); ok {
		if name, ok := named["name"].(string); ok && name != "" {
			return name
		}
	}
	return fmt.Sprint(i)
}

// scalar writes a value for people; lengths of time are nanoseconds in JSON.
func scalar(path string, value any) string {
	last := path[strings.LastIndex(path, ".")+1:]
	number, isNumber := value.(float64)
	if isNumber && slices.Contains([]string{"every", "rpo", "interval", "timeout", "within", "stop_grace"}, last) {
		return fleet.FormatDuration(time.Duration(number))
	}
	if isNumber {
		return fmt.Sprintf("%v", number)
	}
	return fmt.Sprint(value)
}

// Package frontend holds the page of the product and the settings of the nginx that serves it.
package frontend

import (
	_ "embed"
	"strings"
)

//go:embed nginx.conf
var conf string

//go:embed index.html
var page string

// Conf gives nginx's settings for a version.
func Conf(version string) []byte { return []byte(strings.ReplaceAll(conf, "VERSION", version)) }

// Page gives the page of a version; base is where the API of the same major version is.
func Page(version, base string) []byte {
	return []byte(strings.NewReplacer("VERSION", version, "BASE", base).Replace(page))
}

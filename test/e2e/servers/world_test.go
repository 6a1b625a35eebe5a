// Package servers_test tells the stories of lost sites, lost nodes and steady writes on a lab of full servers, with the
// customers of examples/dash. The stories share one lab; each leaves all customers served.
package servers_test

import (
	"os"
	"testing"

	"holdfast/test/e2e/dashtest"
)

var shared = dashtest.Shared{Name: "s1"} // one lab for all stories: it takes a minute to bring one up

func TestMain(m *testing.M) { os.Exit(shared.Main(m)) }

package app

import (
	"slices"
	"testing"

	"holdfast/internal/link"
)

func TestOneCertificateForEachDomain(t *testing.T) {
	routes := []link.Route{{Hosts: []string{"acme.notes.example", "www.acme.example"}}, {Hosts: []string{"globex.notes.example", "localhost"}}}
	if got, want := domainsOf(routes), []string{"acme.example", "notes.example"}; !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
}

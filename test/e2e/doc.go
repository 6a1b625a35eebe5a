// Package e2e holds the stories: a real control plane, real nodes, real customers' data, and what may befall them.
package e2e

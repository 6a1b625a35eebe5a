// Package dash holds the tests of examples/dash that need Holdfast itself: its images on a real Docker Engine, brought up,
// dumped, restored and led through its releases by the agent, as on a node.
//
// They build the programs and images themselves (minutes, the first time; see make dash) and need root and dockerd.
package dash

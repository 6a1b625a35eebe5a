// Package servers is a lab of full servers on one machine: sites with a router each, joined by a core router, and in
// them servers that boot Debian with systemd, sshd, journald, users and a Docker Engine of their own.
//
// Words: a Shape says what a lab is made of, as plain data; a Lab is one that was brought up; a Server is one machine
// of it (most are nodes, since they run an agent; one is the control plane's, one serves object storage, mail, names
// and certificates). The base is the root file system that all servers start from; a disk is what one server has
// written since, of a real and limited size. To kill a server is to take its power; to cut a site is to take its way
// to every other; to unplug a server is to take its link. The core and the routers stand for the world between.
//
// Invariant: whatever a lab made on this machine carries its name (network namespaces and control groups hf-NAME,
// folders NAME, one link hf-NAME), so that Down takes away all of that and nothing else, also after a crash. Mounts
// live in the servers' own namespaces only and end with them. The package touches no route, file or process that it
// has not made.
package servers

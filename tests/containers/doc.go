// Package containers tests moves of containers of runc and crun between isolated
// hosts.
package containers

// Package hosts tests the program as its users run it, between isolated hosts
// on one machine: it starts workloads, runs migrate's commands, reads --json,
// kills what can be killed, and asks the workloads what they saw.
package hosts

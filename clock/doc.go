// Package clock carries a workload's CLOCK_MONOTONIC and CLOCK_BOOTTIME from
// one host to another so that they never step backwards.
//
// A restored tree lives in a fresh time namespace (time_namespaces(7)): its
// clocks are the host's plus offsets that are fixed when the first task enters.
// CRIU computes the offsets so that the clocks go on from the values in the
// timens image, which it read at the dump; [Plan] says what to write there so
// that they also advance by the outage.
//
// How long the outage was is known from the hosts' monotonic clocks alone.
// [Estimate] compares them by an exchange of readings and gives bounds that
// hold however long each message took, so nothing depends on wall-clock time
// being right anywhere. Where only bounds are known the smaller outage is
// added: a deadline may come late by the bound, never early.
//
// Everything but [Now], [Offsets] and [Supported] is a pure function.
package clock

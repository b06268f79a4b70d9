// Package network moves a workload's network namespace: its links, addresses,
// routes and settings, the silence while it is frozen, and the word to the
// neighbours that it is now elsewhere.
//
// On the source: [Describe] says what there is and what cannot be moved; [Lock]
// keeps every packet out of and in the namespace while the workload is frozen;
// [Unlock] is the way back, [Release] the end after the commit point.
//
// On the target: [Target.Check] compares a description with the host,
// [Target.Fill] makes the same in an empty namespace, locked and with the host's ends
// of its links down, so that two hosts never answer for one address.
// [Target.Up] opens it at commit, [Announce] tells the neighbours, and
// [Target.Remove] takes everything away again, after a crash too.
//
// Addresses keep their links, links their MAC and index. TCP connections
// themselves are CRIU's. What a peer says about a namespace is checked by
// [Description.Validate] before anything is made of it.
package network

// Package supervisor is the small long-lived process that is the real parent
// of one workload on a host, and the client that others use to talk to it.
//
// A supervisor is started by [Start], either to run a new capsule
// ([Client.Run]) or to receive a migration ([Client.Prepare],
// [Client.Restore]). From then on it depends on nobody: it has its own
// session, cgroup and log file, and whoever started it may end, be killed or be
// upgraded. It is parent and subreaper of the workload, copies its pipes and
// terminals to log files, and records how it ended. It ends with its workload.
//
// A restore stops in CRIU's post-restore hook: the tree is complete and nothing
// of it has run. The supervisor then holds it until [Client.Resume] or
// [Client.Discard], whoever's client that is and however long it takes; nothing
// but a client's word ends a hold, except the death of CRIU or of the tree,
// after which nothing of the tree is left and [Client.Restore] may be called again.
// A supervisor that holds nothing and runs nothing ends by itself once no
// client has been connected for [IdleLimit].
//
// # Files
//
// The control socket is w/NAME.sock in the run directory. Only root may talk
// to it. The workload's record (package workload) and its logs are in the
// directory [workload.RecordDir]: stdout.log, stderr.log and fdN.log are
// appended to, supervisor.log is the supervisor's own.
//
// # Signals
//
// SIGTERM and SIGINT stop the workload as [Client.Stop] does with its defaults; a
// supervisor that has not restored its workload yet discards it, and one that
// holds ignores them. SIGHUP is ignored.
package supervisor

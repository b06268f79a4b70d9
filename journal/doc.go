// Package journal keeps one record per migration and side on a host, and knows
// what to do with a record whose process has died.
//
// A record is written (write, fsync, rename, fsync the directory) before the
// peer can see what it announces, with two exceptions: what undoes things is
// done first and journaled after. A source thaws, then journals rolled-back; a
// target discards, then journals rolled-back. A crash between the two repeats
// an undo that is harmless to repeat; the other order would leave a frozen tree
// that no record speaks of.
//
// # The commit
//
//	source                                   target
//	restore: images sent, waits              restore: CRIU restores
//	                                         held: restored, not running
//	                            <-- vote --
//	commit: the commit point
//	                           -- commit -->
//	                                         commit: lets the tree run
//	                                         finish: it runs
//	                          <-- running --
//	finish: kills its frozen copy
//	done                                     done
//
// The commit point is the record that takes the source to [migrate.Commit].
// Before it the source may always roll back alone; after it the source's copy
// runs again only if the target has journaled that its own never will. Between
// held and commit the target may not decide alone.
//
// # Who is deciding
//
// While a process works on a migration it holds a lock (flock(2)) on
// ID.SIDE.lock, which the kernel drops however it dies. A record whose lock is
// free has nobody to carry it on, and can be taken with [Journal.Take] for
// recovery; [Recovery] and [Verdict] are the tables of what to do then.
package journal

// Package inject runs system calls inside another process by ptrace(2): those
// that change only the caller, such as userfaultfd(2), setns(2) or fchdir(2).
//
// The process stands still for about a tenth of a millisecond and keeps no
// trace: registers, signal mask and pending signals are as before, and a system
// call that was interrupted restarts. The kernel restarts neither epoll_wait(2)
// nor sigtimedwait(2) and their like, which return EINTR as they do after any
// stop (signal(7)). On arm64 the kernel forgets how far a sleep had got, which
// then begins anew.
//
// # Who may wait
//
// The kernel tells of the stop to whoever waits in the calling process. If the
// other process is a child of the caller, nothing in the caller may be in
// [os.Process.Wait] for it, nor anything in a wait for any child, from [Stop] to
// [Thread.Resume]: it would take the stop for the process's end.
//
// If the caller is killed in between, the process goes on with the registers of
// the system call that was injected, which kills it.
package inject

// Package fill is the filler: a small process that gives a lazily restored
// tree its memory from the local store while the tree runs, pages that somebody
// waits for first.
//
// CRIU registers the tree's memory with a userfaultfd for each task and hands
// those to the filler, in place of its own "criu lazy-pages" (uffd.c), over the
// socket lazy-pages.socket in its work directory. From then on a missing page
// stops whoever touches it until the filler has placed it. What the program
// does to its memory meanwhile (fork, mremap, munmap, madvise) comes as events
// and waits until they are read. What is placed is given back by the store at once,
// unless a forked child lacks it too.
//
// # What dies
//
// When the last descriptor of a userfaultfd is closed, pages that are missing
// read as zeros, and nobody is told. So a second process, the keeper, shares the
// filler's table of descriptors and does nothing: if the filler dies, whoever needs
// a page waits, the parent hears of it, kills the tree and then the keeper. If the
// parent dies, the filler goes on to the end by itself. If the keeper dies, the filler
// starts another. The three are in a cgroup of their own, so that freezing the
// tree does not stop them, and the kernel does not pick them when memory is short.
package fill

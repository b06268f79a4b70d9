// Package guest is what a virtual machine of tests/vm runs as its first
// process, and the channel by which the machine outside speaks to it.
//
// The program made of it is the init of the initial file system: it mounts the
// disk, makes a host of it ([Init]) and serves requests ([Serve]). Outside, a
// [Client] runs commands and copies files.
//
// A connection carries one request. Both sides send frames: one byte of kind,
// four bytes of length (big endian), the payload. The first frame is the
// request; after it the client sends standard input, or a file's content, and
// the guest sends output, or a file's content, and at last an exit status or
// an error. A client that goes away has its command killed.
package guest

// Package programs moves real programs that are at work, each verified by a
// client of its own: nothing that was acknowledged may be lost, nothing may go
// back, and the program must end as it would have. scripts/setup installs them
// from the distribution. Both hosts see the same files.
package programs

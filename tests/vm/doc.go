// Package vm tests the program between virtual machines with kernels of their
// own: it starts two or three, runs migrate's commands in them, reads --json,
// and asks the workloads what they saw. Nothing of source or target is
// imported.
//
// vms.json defines the machines. Their file system and kernels are built from
// the distribution's packages by scripts/vm-image and kept by content
// ([ReadyImage]); what is built from this tree, such as migrate itself, is
// copied in when the machines run, so that the image does not change with the
// code.
//
// The machines of a set live in a network namespace that belongs to the
// process that started them ([Start]): when it dies, however it dies, so do
// they, and their bridge and links are gone with the namespace.
//
// The scenarios run only with -vm; see docs/vm.md.
package vm

// Package packaging holds what a distribution needs, and the tests of it:
// systemd units, a default configuration, a dashboard, and the script behind
// "make deb".
package packaging

package main

import (
	"io"
	"os"
	"strings"
	"unicode"

	"golang.org/x/term"

	"migrate"
)

// printer turns what a command has into text or JSON. Commands do not know
// which one they have.
type printer interface {
	// event tells how a move goes on.
	event(migrate.Event)
	// result ends a move.
	result(*migrate.Report)
	// report tells all about a move that is over or under way.
	report(*migrate.Report)
	// check is the answer of a preflight.
	check(checkResult)
	// list prints rows under a head, which one without rows has too.
	list(head []string, rows []row)
	// note is a word to a person about what goes on.
	note(format string, args ...any)
	// failure is why the command ends with the exit status code.
	failure(f migrate.Failure, code int)
}

// row is one object of a list. Its exported fields are its JSON form.
type row interface {
	// cells returns its text form, under the list's head.
	cells() []string
}

// printer returns the one that the command line asked for.
func (a *app) printer() printer {
	if a.json {
		return &jsonPrinter{out: a.stdout, text: a.textPrinter()}
	}
	return a.textPrinter()
}

func (a *app) textPrinter() *textPrinter {
	return &textPrinter{out: a.stdout, err: a.stderr, quiet: a.quiet, width: width(a.stderr)}
}

// width returns the columns of the terminal w, and 0 if it is none.
func width(w io.Writer) int {
	if s, ok := w.(*spool); ok {
		w = s.w
	}
	f, ok := w.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" {
		return 0
	}
	columns, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return columns
}

// plain removes what a terminal would obey: text may come from a peer.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

package main

import (
	"encoding/json"
	"io"

	"migrate"
)

// jsonPrinter writes one object a line, each with a "type". What is for people
// still goes to standard error.
type jsonPrinter struct {
	out  io.Writer
	text *textPrinter
}

// failureLine is an error as JSON.
type failureLine struct {
	Type string `json:"type"` // always "error"
	migrate.Failure
	ExitStatus int `json:"exit-status"`
}

func (p *jsonPrinter) write(v any) {
	enc := json.NewEncoder(p.out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		p.text.note("writing the result: %v", err)
	}
}

func (p *jsonPrinter) event(e migrate.Event) { p.write(e) }

func (p *jsonPrinter) result(r *migrate.Report) {
	p.write(r)
	p.text.findings(r)
	if r.Error != nil {
		p.text.failure(*r.Error, 0)
	}
}

func (p *jsonPrinter) report(r *migrate.Report) { p.write(r) }

func (p *jsonPrinter) check(c checkResult) { p.write(c) }

func (p *jsonPrinter) list(_ []string, rows []row) {
	for _, r := range rows {
		p.write(r)
	}
}

func (p *jsonPrinter) note(format string, args ...any) { p.text.note(format, args...) }

func (p *jsonPrinter) failure(f migrate.Failure, code int) {
	p.write(failureLine{"error", f, code})
	p.text.failure(f, code)
}

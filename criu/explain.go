package criu

import (
	"slices"
	"strings"
)

// logLine takes a line of CRIU's log apart: "(00.012345)  1234: Error
// (criu/files-ext.c:98): text", where time, "pie: " and PID may be absent.
// File names and line numbers differ between builds, so nothing rests on them.
var logLine = onNeed(`^(?:\([0-9.]+\))?\s*(?:pie: )?(?:[0-9]+: )?(Error|Warn)\s+\([^)]*\):\s*(.*)$`)

// noise are errors that say that something failed but not why, or that come
// in good runs too.
var noise = onNeed(`FAILED|failed with|exited, status|RLIMIT_NOFILE|^[-=]+$|^Aborting |killed by signal|` +
	`Unable to open fd=|Unable to detach from|Can't open vma|Can't make \w+ id|Unlock network failed|TCP_CORK|TCP_NODELAY|` +
	`^Restorer fail \d+$`) // what every task says that gives up in criu/pie/restorer.c, after the reason

// Explain finds, in the lines of CRIU's log, the error that ended a run, and
// tells it in plain words with advice. That is the last error before the line
// that says FAILED that is known, or else the last that is not just an echo of
// another. An unknown one is returned as CRIU wrote it, without advice. cause
// is empty when the log has no error at all.
func Explain(log []string) (cause, advice string) {
	errs, warns := errorsBeforeEnd(log)
	for _, texts := range [][]string{errs, warns} {
		for _, text := range slices.Backward(texts) {
			if cause, advice, ok := explainLine(text); ok {
				return cause, advice
			}
		}
	}
	for _, text := range slices.Backward(errs) {
		if !noise().MatchString(text) {
			return text, ""
		}
	}
	return "", ""
}

// errorsBeforeEnd returns the texts of errors and warnings up to the last line
// that says FAILED, or all of them if none does.
func errorsBeforeEnd(log []string) (errs, warns []string) {
	end := len(log)
	for i, line := range slices.Backward(log) {
		if strings.Contains(line, "FAILED") {
			end = i
			break
		}
	}
	for _, line := range log[:end] {
		m := logLine().FindStringSubmatch(line)
		if m == nil {
			continue
		}
		if text := strings.TrimSpace(m[2]); m[1] == "Error" {
			errs = append(errs, text)
		} else {
			warns = append(warns, text)
		}
	}
	return errs, warns
}

func explainLine(text string) (cause, advice string, ok bool) {
	for _, h := range heads {
		pattern := h.pattern()
		m := pattern.FindStringSubmatchIndex(text)
		if m == nil {
			continue
		}
		expand := func(template string) string { return string(pattern.ExpandString(nil, template, text, m)) }
		return expand(h.cause), expand(h.advice), true
	}
	return "", "", false
}

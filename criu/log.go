package criu

import (
	"io"
	"os"
	"strings"
	"syscall"
)

// maxLog is how much of the end of a log file is looked at.
const maxLog = 256 << 10

// readLog returns the lines at the end of CRIU's log file; none if there is
// no such file.
func readLog(path string) []string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > maxLog {
		_, _ = f.Seek(-maxLog, io.SeekEnd) // else from the start
	}
	b, _ := io.ReadAll(io.LimitReader(f, maxLog))
	return splitLines(b)
}

func splitLines(b []byte) []string {
	var lines []string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimRight(line, "\r\n "); line != "" {
			lines = append(lines, strings.ToValidUTF8(line, "?"))
		}
	}
	return lines
}

// newError makes the error for a refusal of op. fallback is what to say when
// the log does not tell.
func newError(op string, errno syscall.Errno, log []string, fallback string) *Error {
	cause, advice := Explain(log)
	if cause == "" {
		cause = strings.TrimSpace(fallback)
		if m := logLine().FindStringSubmatch(cause); m != nil {
			cause = m[2]
		}
	}
	if n := len(log) - LogLines; n > 0 {
		log = log[n:]
	}
	return &Error{Op: op, What: "criu " + op, Cause: cause, Advice: advice, Errno: errno, Log: log}
}

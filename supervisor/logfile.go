package supervisor

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"migrate/workload"
)

const supervisorLog = "supervisor.log"

// LogPaths returns the log files that a workload has on this host, without the
// supervisor's own.
func LogPaths(stateDir, name string) ([]string, error) {
	if err := workload.ValidName(name); err != nil {
		return nil, fmt.Errorf("logs of a workload: %w", err)
	}
	paths, err := filepath.Glob(filepath.Join(workload.RecordDir(stateDir, name), "*.log"))
	if err != nil {
		return nil, err
	}
	var logs []string
	for _, p := range paths {
		if filepath.Base(p) != supervisorLog {
			logs = append(logs, p)
		}
	}
	return logs, nil
}

// streamName holds the names that a stream may have; they become file names
// and can come from a peer.
var streamName = regexp.MustCompile(`^(stdin|stdout|stderr|tty[0-9]{1,3}|fd[0-9]{1,7})$`)

// logFile is a file that is appended to, and renamed to NAME.1 in place of an
// older one when it would outgrow its limit.
type logFile struct {
	path  string
	limit int64
	file  *os.File
	size  int64
}

func logPath(dir, stream string) string { return filepath.Join(dir, stream+".log") }

// Write appends p. The file is made by the first write.
func (l *logFile) Write(p []byte) (int, error) {
	if l.limit > 0 && l.size > 0 && l.size+int64(len(p)) > l.limit {
		if err := l.rotate(); err != nil {
			return 0, err
		}
	}
	if l.file == nil {
		if err := l.open(); err != nil {
			return 0, err
		}
	}
	n, err := l.file.Write(p)
	l.size += int64(n)
	return n, err
}

func (l *logFile) open() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	l.file, l.size = f, fi.Size()
	return nil
}

func (l *logFile) rotate() error {
	l.Close()
	return os.Rename(l.path, l.path+".1")
}

// Close closes the file; a later Write opens it again.
func (l *logFile) Close() error {
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file, l.size = nil, 0
	return err
}

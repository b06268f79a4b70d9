package migrate

// Event is one step of a migration under way, for people and machines that
// watch it. Exactly one of the pointers is set.
type Event struct {
	Type     string    `json:"type"` // "phase", "round", "progress", "warning" or "result"
	ID       ID        `json:"id"`
	Phase    *Phase    `json:"phase,omitempty"`
	Round    *Round    `json:"round,omitempty"`
	Progress *Progress `json:"progress,omitempty"`
	Warning  *Finding  `json:"warning,omitempty"`
	Report   *Report   `json:"report,omitempty"`
}

// Progress is where a migration stands now.
type Progress struct {
	Phase       Phase   `json:"phase"`
	Round       int     `json:"round"`
	Done        uint64  `json:"done-bytes"`                 // of memory, this round
	Total       uint64  `json:"total-bytes"`                // of memory, this round
	Files       uint64  `json:"file-bytes,omitempty"`       // of content of files looked at in this pass
	FilesTotal  uint64  `json:"file-total-bytes,omitempty"` // about all of this pass; 0 if no files are sent
	Transferred uint64  `json:"transferred-bytes"`
	Mbps        float64 `json:"mbps"`
	DirtyRate   uint64  `json:"dirty-bytes-per-second"`
	Elapsed     Millis  `json:"elapsed-ms"`
	ETA         Millis  `json:"eta-ms"`               // of this round; 0 when not known
	Expected    Millis  `json:"expected-downtime-ms"` // 0 when not known
	Throttle    int     `json:"throttle-percentage"`
}

// Percent returns how much of the round is done, 0 to 100.
func (p Progress) Percent() float64 {
	if p.Total == 0 {
		return 0
	}
	return min(100, 100*float64(p.Done)/float64(p.Total))
}

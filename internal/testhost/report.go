package testhost

import (
	"encoding/json"
	"fmt"
	"strings"

	"migrate"
)

// Report finds the report in what "migrate move --json" wrote: its last line
// that is a result.
func Report(output string) (migrate.Report, error) {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		var r migrate.Report
		if json.Unmarshal([]byte(lines[i]), &r) == nil && r.Type == "result" {
			return r, nil
		}
	}
	return migrate.Report{}, fmt.Errorf("no result in %q", output)
}

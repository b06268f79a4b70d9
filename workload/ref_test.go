package workload

import (
	"strings"
	"testing"
)

func TestParseSource(t *testing.T) {
	tests := []struct {
		in, host string
		want     Ref
		name     string
	}{
		{"process:1", "", Ref{Process, "1"}, "process-1"},
		{"process:4194304", "", Ref{Process, "4194304"}, "process-4194304"},
		{"capsule:web", "", Ref{Capsule, "web"}, "web"},
		{"a.example:7420/capsule:Web_1.x-2", "a.example:7420", Ref{Capsule, "Web_1.x-2"}, "Web_1.x-2"},
		{"[::1]:7420/process:9", "[::1]:7420", Ref{Process, "9"}, "process-9"},
	}
	for _, tt := range tests {
		host, got, err := ParseSource(tt.in)
		if err != nil || host != tt.host || got != tt.want || got.Name() != tt.name {
			t.Errorf("ParseSource(%q) = %q, %v, %v, want %q, %v", tt.in, host, got, err, tt.host, tt.want)
		}
		if again, err := Parse(got.String()); err != nil || again != got {
			t.Errorf("Parse(%q) = %v, %v", got, again, err)
		}
	}
	bad := []string{
		"", "process", "process:", "process:0", "process:-1", "process:01", "process:+1", "process:x", "process:99999999999999999999",
		"capsule:", "capsule:.", "capsule:..", "capsule:-x", "capsule:a b", "capsule:a:b", "capsule:" + strings.Repeat("x", 65),
		"lxc:x", "12", "/process:1", "a/b/process:1", "capsule:ä", "capsule:x\n", "Process:1",
	}
	for _, in := range bad {
		if host, got, err := ParseSource(in); err == nil {
			t.Errorf("ParseSource(%q) = %q, %v, want an error", in, host, got)
		}
	}
}

func TestRefPID(t *testing.T) {
	if got := (Ref{Process, "42"}).PID(); got != 42 {
		t.Errorf("PID = %d, want 42", got)
	}
	if got := (Ref{Capsule, "42"}).PID(); got != 0 {
		t.Errorf("PID of a capsule = %d, want 0", got)
	}
}

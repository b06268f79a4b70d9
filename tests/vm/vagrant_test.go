package vm

import (
	"os"
	"strings"
	"testing"

	"migrate/tests/vm/guest"
)

// TestVagrantfile demands that the Vagrantfile says what the guests go by, and
// takes all else from the definition.
func TestVagrantfile(t *testing.T) {
	b, err := os.ReadFile("../../Vagrantfile")
	if err != nil {
		t.Fatal(err)
	}
	settings := guest.Settings{Name: "#{host['name']}", Number: 7, Address: "#{host['address']}", SSH: true}
	line := strings.Replace(settings.CommandLine(), "=7 ", "=#{host['number']} ", 1)
	text := strings.ReplaceAll(string(b), "\" \\\n                         \"", "")
	for _, want := range []string{"CONTROL_MAC = '" + guest.ControlMAC + "'", "TEST_MAC = '" + guest.TestMAC + "'", line, "tests/vm/vms.json"} {
		if !strings.Contains(text, want) {
			t.Errorf("the Vagrantfile lacks %q", want)
		}
	}
	d, err := Defined()
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range d.Hosts {
		if strings.Contains(text, h.IP()) {
			t.Errorf("the Vagrantfile has %s of its own", h.IP())
		}
	}
}

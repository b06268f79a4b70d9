package testhost

import "testing"

func TestDrain(t *testing.T) {
	const said = `{"type":"plan","id":"a"}
{"type":"step","workload":"x","step":"begin","running":1}
{"type":"progress"}
{"type":"step","workload":"y","step":"begin","running":2}
{"type":"drain-progress"}
{"type":"step","workload":"x","step":"moved","running":1}
{"type":"step","workload":"z","step":"begin","running":2}
{"type":"drain","id":"a","status":"failed"}
`
	d, err := Drain(said)
	if err != nil || len(d.Plans) != 1 || len(d.Steps) != 4 || d.Progress != 1 || d.Result.Status != "failed" {
		t.Errorf("%+v, %v", d, err)
	}
	if most, err := d.AtOnce(); most != 2 || err != nil {
		t.Errorf("%d at once, %v", most, err)
	}
	d.Steps[3].Running = 3
	if _, err := d.AtOnce(); err == nil {
		t.Error("steps that contradict each other are not noticed")
	}
	if _, err := Drain("no JSON"); err == nil {
		t.Error("what is no JSON is not noticed")
	}
}

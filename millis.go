package migrate

import (
	"encoding/json"
	"math"
	"time"
)

// MarshalJSON writes m as a number of milliseconds.
func (m Millis) MarshalJSON() ([]byte, error) {
	return json.Marshal(math.Round(float64(m)/1e3) / 1e3)
}

// UnmarshalJSON reads a number of milliseconds.
func (m *Millis) UnmarshalJSON(b []byte) error {
	var f float64
	if err := json.Unmarshal(b, &f); err != nil {
		return err
	}
	*m = Millis(f * float64(time.Millisecond))
	return nil
}

// String returns m as a duration rounded to 0.1 ms.
func (m Millis) String() string {
	return time.Duration(m).Round(100 * time.Microsecond).String()
}

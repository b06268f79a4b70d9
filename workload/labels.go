package workload

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"migrate/internal/atomicfile"
)

// Labelled is a workload that has labels, as it is kept beside its record. A
// process that nobody of ours supervises has no record: it is known by its
// labels alone.
type Labelled struct {
	Name   string            `json:"name"`
	Kind   Kind              `json:"kind"`
	Root   Live              `json:"root"`
	Labels map[string]string `json:"labels"`
}

// Limits of labels. They travel in every offer.
const (
	maxLabels     = 64
	maxLabelKey   = 63
	maxLabelValue = 255
)

var labelKey = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$`)

// ValidLabels reports what is wrong with labels, which may come from a peer.
func ValidLabels(labels map[string]string) error {
	if len(labels) > maxLabels {
		return fmt.Errorf("%d labels: a workload has %d at most", len(labels), maxLabels)
	}
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		if len(k) > maxLabelKey || !labelKey.MatchString(k) {
			return fmt.Errorf("label %.80q: want up to %d letters, digits, '.', '_', '-' and '/', a letter or digit at both ends", k, maxLabelKey)
		}
		v := labels[k]
		if len(v) > maxLabelValue || strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == ',' || r == 0x7f }) {
			return fmt.Errorf("label %s: want a value of up to %d bytes without commas and control characters", k, maxLabelValue)
		}
	}
	return nil
}

func labelsFile(stateDir, name string) string {
	return filepath.Join(RecordDir(stateDir, name), "labels.json")
}

// SaveLabels keeps the labels of a workload for as long as root lives. Without
// labels it forgets them.
func SaveLabels(stateDir string, l Labelled) error {
	if err := errors.Join(ValidName(l.Name), ValidLabels(l.Labels)); err != nil {
		return fmt.Errorf("labels of %.80s: %w", l.Name, err)
	}
	if len(l.Labels) == 0 {
		err := os.Remove(labelsFile(stateDir, l.Name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if err := makeDir(stateDir, l.Name); err != nil {
		return fmt.Errorf("labels of %s: %w", l.Name, err)
	}
	return atomicfile.WriteFile(labelsFile(stateDir, l.Name), append(b, '\n'), 0o600)
}

// Labels returns the labels of the workload whose first process is root; none
// if those that are kept under its name are of one that has ended.
func Labels(stateDir, name string, root Live) (map[string]string, error) {
	l, err := loadLabels(stateDir, name)
	if err != nil || l.Root != root {
		return nil, err
	}
	return l.Labels, nil
}

func loadLabels(stateDir, name string) (Labelled, error) {
	b, err := os.ReadFile(labelsFile(stateDir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return Labelled{}, nil
	}
	if err != nil {
		return Labelled{}, fmt.Errorf("labels of %s: %w", name, err)
	}
	var l Labelled
	if err := json.Unmarshal(b, &l); err != nil {
		return Labelled{}, fmt.Errorf("labels of %s: %w", name, err)
	}
	return l, nil
}

// ListLabelled returns the workloads with labels that run, by name. Of those
// that have ended, and have nothing but labels, it forgets these.
func ListLabelled(stateDir string) ([]Labelled, error) {
	names, err := filepath.Glob(labelsFile(stateDir, "*"))
	if err != nil {
		return nil, err
	}
	var list []Labelled
	var problems []error
	for _, path := range names {
		name := filepath.Base(filepath.Dir(path))
		l, err := loadLabels(stateDir, name)
		switch {
		case err != nil:
			problems = append(problems, err)
		case l.Root.Alive():
			list = append(list, l)
		default:
			forget(stateDir, name, path)
		}
	}
	return list, errors.Join(problems...)
}

// forget removes labels of what has ended, and the directory if nothing else is
// in it. What fails is tried again the next time.
func forget(stateDir, name, path string) {
	if _, err := os.Stat(recordFile(stateDir, name)); errors.Is(err, fs.ErrNotExist) && os.Remove(path) == nil {
		_ = os.Remove(filepath.Dir(path))
	}
}

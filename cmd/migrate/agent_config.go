package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/goccy/go-yaml"
	"github.com/spf13/pflag"
)

// defaultConfig is read if it is there and no other is named.
const defaultConfig = "/etc/migrate/agent.yaml"

// configure sets the flags that the command line does not have to what a file
// says: YAML, whose keys are the flags' names.
func configure(flags *pflag.FlagSet, file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var settings map[string]any
	if err := yaml.Unmarshal(b, &settings); err != nil {
		return &usageError{fmt.Errorf("configuration %s: %s", file, yaml.FormatError(err, false, false))}
	}
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		if err := setFlag(flags, key, settings[key]); err != nil {
			return &usageError{fmt.Errorf("configuration %s: %w", file, err)}
		}
	}
	return nil
}

// notInFile are flags that say where the file is, or what is printed.
var notInFile = []string{"config", "help"}

func setFlag(flags *pflag.FlagSet, key string, value any) error {
	flag := flags.Lookup(key)
	if flag == nil || slices.Contains(notInFile, key) {
		return unknownKey(flags, key)
	}
	if flag.Changed { // the command line, or what it came from, wins
		return nil
	}
	words, err := wordsOf(value)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	list, isList := flag.Value.(pflag.SliceValue)
	if isList {
		return list.Replace(words)
	}
	if len(words) != 1 {
		return fmt.Errorf("%s: want one value, got %d", key, len(words))
	}
	if err := flag.Value.Set(words[0]); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

// wordsOf returns a value as it would stand on the command line.
func wordsOf(value any) ([]string, error) {
	switch v := value.(type) {
	case []any:
		var words []string
		for _, e := range v {
			w, err := wordsOf(e)
			if err != nil || len(w) != 1 {
				return nil, errors.New("want a list of plain values")
			}
			words = append(words, w...)
		}
		return words, nil
	case map[string]any:
		return nil, errors.New("want a value or a list, not a mapping")
	case nil:
		return nil, errors.New("there is no value")
	}
	return []string{fmt.Sprint(value)}, nil
}

// unknownKey names the key that was perhaps meant.
func unknownKey(flags *pflag.FlagSet, key string) error {
	best, least := "", 4
	flags.VisitAll(func(f *pflag.Flag) {
		if d := distance(key, f.Name); d < least && !slices.Contains(notInFile, f.Name) {
			best, least = f.Name, d
		}
	})
	if best == "" {
		return advise(fmt.Errorf("unknown key %.40q", key), "keys are the names of the flags of \"migrate agent\"")
	}
	return advise(fmt.Errorf("unknown key %.40q", key), "did you mean %s?", best)
}

// distance is how many letters have to be added, removed or replaced to make b
// of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

// readConfig configures flags by the named file, or by the default one if that
// is there, and returns which it was; "" is none.
func readConfig(flags *pflag.FlagSet, named string) (file string, err error) {
	file = cmp.Or(named, defaultConfig)
	err = configure(flags, file)
	if named == "" && errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		err = &usageError{fmt.Errorf("--config: %w", err)}
	}
	return file, err
}

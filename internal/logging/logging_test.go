package logging

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFormatsAndLevels(t *testing.T) {
	for _, c := range []struct {
		level, format string
		json          bool
		lines         int
	}{{"info", Auto, true, 2}, {"info", JSON, true, 2}, {"info", Text, false, 2}, {"debug", JSON, true, 3}, {"error", JSON, true, 0}} {
		f, err := os.Create(filepath.Join(t.TempDir(), "log"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		log, err := New(f, c.level, c.format)
		if err != nil {
			t.Fatal(err)
		}
		log.Debug("d")
		log.Info("i", "key", "value")
		log.Warn("w")
		data, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		text := string(data)
		if n := strings.Count(text, "\n"); n != c.lines {
			t.Errorf("%s, %s: %d lines\n%s", c.level, c.format, n, text)
		}
		for line := range strings.Lines(text) {
			if json.Valid([]byte(line)) != c.json || strings.Contains(line, "\x1b") {
				t.Errorf("%s, %s: %s", c.level, c.format, line)
			}
		}
	}
}

func TestUnknownLevelAndFormatAreRefused(t *testing.T) {
	for _, c := range []struct{ level, format, says string }{
		{"loud", JSON, "debug, info, warn or error"}, {"", JSON, "debug, info, warn or error"},
		{"info", "xml", "auto, text or json"}, {"info", "", "auto, text or json"},
	} {
		if _, err := New(os.Stderr, c.level, c.format); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s, %s: got %v", c.level, c.format, err)
		}
	}
}

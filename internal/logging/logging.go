// Package logging makes the process's logger: readable lines on a terminal, JSON anywhere else.
package logging

import (
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/lmittmann/tint"
	"golang.org/x/term"
)

// Formats of log lines.
const (
	Auto = "auto" // text on a terminal, else JSON
	Text = "text"
	JSON = "json"
)

// New makes a logger that writes to f. Level is debug, info, warn or error.
func New(f *os.File, level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q: want debug, info, warn or error", level)
	}
	terminal := term.IsTerminal(int(f.Fd()))
	switch {
	case format == JSON, format == Auto && !terminal:
		return slog.New(slog.NewJSONHandler(f, &slog.HandlerOptions{Level: l})), nil
	case format == Text, format == Auto:
		return slog.New(tint.NewTextHandler(f, &tint.Options{Level: l, TimeFormat: time.TimeOnly + ".000", NoColor: !terminal})), nil
	default:
		return nil, fmt.Errorf("log format %q: want auto, text or json", format)
	}
}

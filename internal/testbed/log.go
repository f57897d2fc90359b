package testbed

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
)

// Log keeps what a process writes. Its zero value keeps it in memory alone.
type Log struct {
	Copy io.Writer // takes it as well

	mu   sync.Mutex
	kept bytes.Buffer
}

// Write implements io.Writer.
func (l *Log) Write(data []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept.Write(data)
	if l.Copy != nil {
		return l.Copy.Write(data)
	}
	return len(data), nil
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.kept.String()
}

// Tail is the last n bytes.
func (l *Log) Tail(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.kept.Bytes()
	return string(all[max(0, len(all)-n):])
}

// Entries are the lines of JSON whose message begins so.
func (l *Log) Entries(message string) (entries []map[string]any) {
	for line := range strings.Lines(l.String()) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil {
			if text, _ := entry["msg"].(string); strings.HasPrefix(text, message) {
				entries = append(entries, entry)
			}
		}
	}
	return entries
}

// Await returns the first line of a process's log whose message begins so, once it is there.
func (p *Process) Await(ctx context.Context, message string) (entry map[string]any, err error) {
	err = Until(ctx, func() bool {
		running := p.Running() // asked first: what it wrote at its end is read too
		entries := p.Log.Entries(message)
		if len(entries) > 0 {
			entry = entries[0]
		}
		return entry != nil || !running
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("wait until %s says %q: %w", p.Name, message, err)
	case entry == nil:
		return nil, p.Ended()
	}
	return entry, nil
}

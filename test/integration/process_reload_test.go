//go:build unix

package integration

import (
	"regexp"
	"slices"
	"syscall"
	"testing"

	"github.com/exesdb/subproxy/pkg/status"
)

func processHangupReloads(t *testing.T, p *processPrograms) {
	node := processNodes(t, p, 1)[0]
	w := attach(t, node.url())
	const (
		kept     = "{name: kept, type: by_stream, selector: $all}"
		removed  = "{name: removed, type: by_stream, selector: $all}"
		restarts = "{name: restarts, type: by_stream, selector: $all, start_version: 0}"
		moves    = "{name: moves, type: by_event_type, selector: old}"
	)
	before := map[string]uint64{ // key to incarnation
		"greenhouse.by_stream.=24all.kept": 1, "greenhouse.by_stream.=24all.removed": 1,
		"greenhouse.by_stream.=24all.restarts": 1, "greenhouse.by_event_type.old.moves": 1,
	}
	after := map[string]uint64{
		"greenhouse.by_stream.=24all.kept": 1, "greenhouse.by_stream.=24all.added": 1,
		"greenhouse.by_stream.=24all.restarts": 2, "greenhouse.by_event_type.new.moves": 1,
	}
	config := processFile(t, processConfig(node.url(), 1, kept, removed, restarts, moves))
	proxy := processServe(t, p, config)
	processAwait(w, proxy, len(before), "registered", processAnyStatus)
	processHolds(w, proxy, before)

	processWrite(t, config, processConfig(node.url(), 1, kept, "{name: added, type: by_stream, selector: $all}",
		"{name: restarts, type: by_stream, selector: $all, start_version: -1}", "{name: moves, type: by_event_type, selector: new}"))
	proxy.signal(syscall.SIGHUP)
	processLogs(w, proxy, "SIGHUP: configuration taken over", 1)
	processHolds(w, proxy, after)
	statuses := processAwait(w, proxy, len(after), "registered after the change", processAnyStatus)
	for _, s := range statuses {
		if s.Name == "kept" && (s.Revision > uint64(len(before)) || s.LastCause != "initial") {
			t.Errorf("what did not change was written again: %+v", s)
		}
	}
	if r, _ := w.record("greenhouse.by_stream.=24all.restarts"); r.StartVersion != -1 {
		t.Errorf("the changed registration is %+v", r)
	}

	last := processLast(w)
	for n, broken := range []struct{ text, place, ends string }{
		{processConfig(node.url(), 1, kept, "{name: bad, type: by_streem, selector: $all}"), `:11:27: `, "SIGHUP: nothing was changed"},
		{processConfig(node.url(), 1, kept, "{name: bad, type: ["), `:\d+:\d+: `, "SIGHUP: nothing was changed"},
		{"", `:1:1: `, "SIGHUP: nothing was changed"},
		{processConfig("nats://127.0.0.1:1", 1, kept), "", "SIGHUP: the configuration was not taken over"},
	} {
		processWrite(t, config, broken.text)
		refused := len(proxy.Log.Entries(broken.ends))
		proxy.signal(syscall.SIGHUP)
		processLogs(w, proxy, broken.ends, refused+1)
		if broken.place == "" {
			continue
		}
		mistakes := proxy.Log.Entries("SIGHUP: the configuration has a mistake")
		where, _ := mistakes[len(mistakes)-1]["where"].(string)
		if !regexp.MustCompile("^" + regexp.QuoteMeta(config) + broken.place).MatchString(where) {
			t.Errorf("file %d: the mistake is said to be at %q, want %s", n, where, broken.place)
		}
	}
	processHolds(w, proxy, after)
	processAwait(w, proxy, len(after), "as before", func(s status.Status) bool { return s.Revision <= last })
	if now := processLast(w); now != last {
		t.Errorf("refused files caused %d writes", now-last)
	}
	if len(proxy.Log.Entries("SIGHUP: configuration taken over")) != 1 {
		t.Error("a file with mistakes was taken over")
	}
}

func processLogs(w *world, p *processProxy, message string, n int) {
	w.Helper()
	w.eventually("subproxy to log "+message, func() bool { return len(p.Log.Entries(message)) >= n })
}

// processHolds waits until the bucket holds exactly these keys with these incarnations, all the instance's.
func processHolds(w *world, p *processProxy, want map[string]uint64) {
	w.Helper()
	var all []string
	for _, one := range w.writes() {
		if !slices.Contains(all, one.key) {
			all = append(all, one.key)
		}
	}
	for key := range want {
		if !slices.Contains(all, key) {
			all = append(all, key)
		}
	}
	held := map[string]record{}
	defer func() {
		if w.Failed() {
			w.Logf("the bucket holds %+v", held)
		}
	}()
	w.eventually("the bucket holds what is configured", func() bool {
		clear(held)
		for _, key := range all {
			if r, ok := w.record(key); ok {
				held[key] = r
			}
		}
		for key, incarnation := range want {
			if r := held[key]; r.Incarnation != incarnation || r.Owner.ID != p.id {
				return false
			}
		}
		return len(held) == len(want)
	})
}

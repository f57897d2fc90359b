//go:build unix

package integration

import (
	"regexp"
	"slices"
	"syscall"
	"testing"

	"github.com/exesdb/subproxy/test/harness"
)

func processHangupReloads(t *testing.T, subproxy string) {
	node := harness.StartServers(t, 1)[0]
	w := attach(t, node.URL())
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
	config := harness.ConfigFile(t, processConfig(node.URL(), 1, kept, removed, restarts, moves))
	proxy := harness.Serve(t, subproxy, config)
	processAwait(w, proxy, len(before), "registered", processAnyStatus)
	processHolds(w, proxy, before)

	harness.WriteFile(t, config, processConfig(node.URL(), 1, kept, "{name: added, type: by_stream, selector: $all}",
		"{name: restarts, type: by_stream, selector: $all, start_version: -1}", "{name: moves, type: by_event_type, selector: new}"))
	proxy.MustSignal(syscall.SIGHUP)
	processLogs(w, proxy, "SIGHUP: configuration taken over", 1)
	processHolds(w, proxy, after)
	statuses := processAwait(w, proxy, len(after), "registered after the change", processAnyStatus)
	for _, s := range statuses {
		if s.Name == "kept" && (s.Revision > uint64(len(before)) || s.LastCause != "initial") {
			t.Errorf("what did not change was written again: %+v", s)
		}
	}
	if r, _ := w.Record("greenhouse.by_stream.=24all.restarts"); r.StartVersion != -1 {
		t.Errorf("the changed registration is %+v", r)
	}

	last := processLast(w)
	for n, broken := range []struct{ text, place, ends string }{
		{processConfig(node.URL(), 1, kept, "{name: bad, type: by_streem, selector: $all}"), `:11:27: `, "SIGHUP: nothing was changed"},
		{processConfig(node.URL(), 1, kept, "{name: bad, type: ["), `:\d+:\d+: `, "SIGHUP: nothing was changed"},
		{"", `:1:1: `, "SIGHUP: nothing was changed"},
		{processConfig("nats://127.0.0.1:1", 1, kept), "", "SIGHUP: the configuration was not taken over"},
	} {
		harness.WriteFile(t, config, broken.text)
		refused := len(proxy.Log.Entries(broken.ends))
		proxy.MustSignal(syscall.SIGHUP)
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
	processAwait(w, proxy, len(after), "as before", func(s harness.Status) bool { return s.Revision <= last })
	if now := processLast(w); now != last {
		t.Errorf("refused files caused %d writes", now-last)
	}
	if len(proxy.Log.Entries("SIGHUP: configuration taken over")) != 1 {
		t.Error("a file with mistakes was taken over")
	}
}

func processLogs(w *world, p *harness.Instance, message string, n int) {
	w.Helper()
	w.Eventually("subproxy to log "+message, func() bool { return len(p.Log.Entries(message)) >= n })
}

// processHolds waits until the bucket holds exactly these keys with these incarnations, all the instance's.
func processHolds(w *world, p *harness.Instance, want map[string]uint64) {
	w.Helper()
	var all []string
	for _, one := range w.Writes() {
		if !slices.Contains(all, one.Key) {
			all = append(all, one.Key)
		}
	}
	for key := range want {
		if !slices.Contains(all, key) {
			all = append(all, key)
		}
	}
	held := map[string]harness.Record{}
	defer func() {
		if w.Failed() {
			w.Logf("the bucket holds %+v", held)
		}
	}()
	w.Eventually("the bucket holds what is configured", func() bool {
		clear(held)
		for _, key := range all {
			if r, ok := w.Record(key); ok {
				held[key] = r
			}
		}
		for key, incarnation := range want {
			if r := held[key]; r.Incarnation != incarnation || r.Owner.ID != p.ID {
				return false
			}
		}
		return len(held) == len(want)
	})
}

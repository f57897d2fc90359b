package emitter

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/pkg/event"
)

func TestProgressIsCutToWhatTheServerTakes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringN(1, 40, 200)
		behind := rapid.MapOf(name, rapid.Uint64Min(1)).Draw(t, "behind")
		waiting := rapid.MapOf(name, rapid.StringN(1, 200, 800)).Draw(t, "waiting")
		gaps := rapid.MapOf(name, rapid.Custom(func(t *rapid.T) event.Gap {
			any := rapid.Uint64()
			return event.Gap{Events: any.Draw(t, "events"), From: any.Draw(t, "from"), To: any.Draw(t, "to"), At: time.Now().UTC()}
		})).Draw(t, "gaps")
		room := rapid.IntRange(1, 8192).Draw(t, "room")
		gotBehind, gotWaiting, gotGaps := map[string]uint64{}, map[string]string{}, map[string]event.Gap{}
		parts := splitProgress(behind, waiting, gaps, room)
		for _, part := range parts {
			data, err := json.Marshal(event.Progress{Type: event.ProgressType, Behind: part.behind, Waiting: part.waiting, Gaps: part.gaps})
			if err != nil || strings.Contains(string(data), `"behind":null`) {
				t.Fatalf("%s: %v", data, err)
			}
			if n := len(part.behind) + len(part.waiting) + len(part.gaps); n > progressPart || n > 1 && len(data) > room+progressHead {
				t.Fatalf("a part of %d subscriptions has %d bytes; room was %d", n, len(data), room)
			}
			maps.Copy(gotBehind, part.behind)
			maps.Copy(gotWaiting, part.waiting)
			maps.Copy(gotGaps, part.gaps)
		}
		if len(parts) == 0 || !maps.Equal(gotBehind, behind) || !maps.Equal(gotWaiting, waiting) || !maps.Equal(gotGaps, gaps) {
			t.Fatalf("%v, %v became %v, %v", behind, waiting, gotBehind, gotWaiting)
		}
	})
	many := map[string]uint64{}
	for i := range 2*progressPart + 1 {
		many[fmt.Sprint(i)] = 1
	}
	if parts := splitProgress(many, nil, nil, 1<<20); len(parts) != 3 {
		t.Errorf("%d subscriptions make %d parts", len(many), len(parts))
	}
}

func TestObstaclesAreToldOnceAndUntilTheyAreGone(t *testing.T) {
	var o obstacles
	o.news()
	for _, change := range []func(){
		func() { o.blockStore("stream S is gone") },
		func() { o.block("audit", "a gap") },
		func() { o.block("audit", "another gap") },
		func() { o.block("audit", "") },
		func() { o.blockStore("") },
		func() { o.lack("answers: not permitted") },
		func() { o.lack("") },
	} {
		if change(); !o.news() {
			t.Error("a change is no news")
		}
		if change(); o.news() {
			t.Error("the same again is news")
		}
	}
	if o.store != "" || len(o.waiting) != 0 {
		t.Errorf("%+v is left", o)
	}
}

func TestObstacleOfTheStoreIsLoggedOnceAMinute(t *testing.T) {
	var o obstacles
	now := time.Now()
	if o.say(now) {
		t.Error("there is none")
	}
	lines := 0
	for i := range 300 {
		o.blockStore("stream S has interest retention")
		if o.say(now.Add(time.Duration(i) * time.Second)) {
			lines++
		}
	}
	if lines != 5 {
		t.Errorf("%d lines in five minutes", lines)
	}
	if o.blockStore("stream S is gone"); !o.say(now.Add(301 * time.Second)) {
		t.Error("another is not logged")
	}
}

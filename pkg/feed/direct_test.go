package feed_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/feed"
)

// mirrored makes EVENTS with some messages, and mirrors of it that answer direct gets in its place: one
// that is filtered, so that it has half of them, one that has only the last, and one with all.
func mirrored(t testing.TB, n int) (jetstream.JetStream, []string) {
	t.Helper()
	js := single(t)
	cfg := eventsConfig()
	cfg.RePublish = nil
	createStream(t, js, cfg)
	var subjects []string
	for i := range n {
		subjects = append(subjects, fmt.Sprintf("events.%s.%d", []string{"a", "b"}[i%2], i))
		publish(t, js, subjects[i], fmt.Sprint(i))
	}
	for name, filter := range map[string]string{"HALF": "events.a.*", "LAST": subjects[n-1], "ALL": ""} {
		m := createStream(t, js, jetstream.StreamConfig{Name: name, Mirror: &jetstream.StreamSource{Name: "EVENTS", FilterSubject: filter}})
		if !m.CachedInfo().Config.MirrorDirect {
			t.Skip("a server that does not have mirrors answer for their origin by itself")
		}
	}
	// Each answers one time in four. It joins once it is level.
	answered := map[string]bool{}
	eventually(t, "all answer direct gets", func() bool {
		m, err := js.Conn().Request("$JS.API.DIRECT.GET.EVENTS", []byte(`{"seq":1}`), time.Second)
		if err == nil {
			answered[m.Header.Get("Nats-Stream")] = true
		}
		return len(answered) == 4 // LAST has no such message, and so says no name
	})
	return js, subjects
}

func TestMirrorIsNotTakenForItsOrigin(t *testing.T) {
	const n = 40
	js, subjects := mirrored(t, n)
	d := feed.NewDirect(js, "EVENTS")
	shown := map[string]int{}
	for round := range 25 {
		var listed []string
		for from := uint64(1); ; {
			page, err := d.Page(t.Context(), from, "", 7, 0)
			if errors.Is(err, feed.ErrNothing) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range page {
				listed = append(listed, m.Subject)
				from = m.Sequence + 1
				if m.Header.Get("Nats-Stream") == "HALF" || m.Header.Get("Nats-Stream") == "ALL" {
					t.Fatalf("a mirror's: %+v", m)
				}
			}
		}
		if !slices.Equal(listed, subjects) {
			t.Fatalf("round %d lists %d of %d: %v", round, len(listed), n, listed)
		}
		page, err := d.Page(t.Context(), 1, "events.b.*", n, 0)
		if err != nil || page[0].Subject != subjects[1] {
			t.Fatalf("%+v, %v", page, err)
		}
		found, wanted := map[string]bool{}, subjects[:n-1]
		if err := d.LastOf(t.Context(), wanted, func(m feed.Message) { found[m.Subject] = true }); err != nil {
			t.Fatal(err)
		}
		if len(found) != 0 && len(found) != len(wanted) { // LAST shows nothing: the caller asks the leader
			t.Fatalf("round %d: the last of %d of %d subjects", round, len(found), len(wanted))
		}
		shown[fmt.Sprint(len(found))]++
		if m, err := d.Last(t.Context(), subjects[3]); err == nil && (m.Sequence != 4 || string(m.Data) != "3") || err != nil && !errors.Is(err, feed.ErrNothing) {
			t.Fatalf("%+v, %v", m, err)
		}
	}
	if shown["0"] == 25 || shown[fmt.Sprint(n-1)] == 0 {
		t.Errorf("%v", shown)
	}
}

func TestDirectReadsMessagesWithAHeaderStatus(t *testing.T) {
	for _, direct := range []bool{true, false} {
		t.Run(fmt.Sprint("direct get ", direct), func(t *testing.T) {
			js := single(t)
			cfg := eventsConfig()
			cfg.AllowDirect = direct
			createStream(t, js, cfg)
			publishStatuses(t, js)
			d, n := feed.NewDirect(js, "EVENTS"), len(statuses)+2
			var all []feed.Message
			for from := uint64(1); ; from = all[len(all)-1].Sequence + 1 {
				page, err := d.Page(t.Context(), from, "events.*", 4, 0)
				if errors.Is(err, feed.ErrNothing) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, page...)
			}
			if len(all) != n {
				t.Fatalf("%d of %d", len(all), n)
			}
			checkStatuses(t, all)
			var got []feed.Message
			for seq := range n {
				m, err := d.Get(t.Context(), uint64(seq+1))
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, m)
			}
			checkStatuses(t, got)
			if _, err := d.Get(t.Context(), uint64(n+1)); !errors.Is(err, feed.ErrNothing) {
				t.Errorf("beyond the end: %v", err)
			}
			if _, err := d.Get(t.Context(), 0); !errors.Is(err, feed.ErrNothing) {
				t.Errorf("sequence 0: %v", err)
			}
		})
	}
	for _, status := range statuses { // as the last of a subject, as a deletion marker is
		t.Run(fmt.Sprintf("the last, %q", status), func(t *testing.T) {
			js := single(t)
			createStream(t, js, eventsConfig())
			publishStatus(t, js, status)
			d := feed.NewDirect(js, "EVENTS")
			var found []feed.Message
			if err := d.LastOf(t.Context(), []string{"events.a", "events.b"}, func(m feed.Message) { found = append(found, m) }); err != nil {
				t.Fatal(err)
			}
			for name, last := range map[string]func() (feed.Message, error){
				"replica": func() (feed.Message, error) { return d.Last(t.Context(), "events.a") },
				"leader":  func() (feed.Message, error) { return d.LeaderLast(t.Context(), "events.a") },
				"next":    func() (feed.Message, error) { return d.Next(t.Context(), 0, "") },
				"many":    func() (feed.Message, error) { return found[0], nil },
			} {
				if m, err := last(); err != nil || m.Sequence != 1 || m.Header["Status"][0] != status {
					t.Errorf("%s: %+v, %v", name, m, err)
				}
			}
			if _, err := d.Last(t.Context(), "events.b"); !errors.Is(err, feed.ErrNothing) {
				t.Errorf("nothing there: %v", err)
			}
		})
	}
}

// Where a replica can't be trusted, or part of its answers is lost, nothing is left out that the leader
// has.
func TestDirectLeavesNothingOut(t *testing.T) {
	js := single(t)
	createStream(t, js, eventsConfig())
	const n = 20
	var subjects []string
	for i := range n {
		subjects = append(subjects, fmt.Sprint("events.", i))
		publish(t, js, subjects[i], fmt.Sprint(i))
	}
	for name, give := range map[string]answer{
		"shows nothing":                 func(m *nats.Msg, _ uint64) { reply(m, "404") },
		"is a filtered mirror":          func(m *nats.Msg, from uint64) { message(m, "MIRROR", from+2, 0, time.Now()) },
		"ends early and says it has it": func(m *nats.Msg, _ uint64) { reply(m, "204", "Nats-Num-Pending", "5", "Nats-Last-Sequence", "0") },
		"is not there":                  func(m *nats.Msg, _ uint64) { reply(m, "503") },
	} {
		t.Run(name, func(t *testing.T) {
			behind, _ := gate(t, js, give)
			d := feed.NewDirect(behind, "EVENTS")
			var got []string
			for from := uint64(1); ; {
				page, err := d.Page(t.Context(), from, "", 3, 0)
				if errors.Is(err, feed.ErrNothing) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range page {
					got, from = append(got, m.Subject), m.Sequence+1
				}
			}
			if !slices.Equal(got, subjects) {
				t.Errorf("got %s", strings.Join(got, " "))
			}
			found := map[string]bool{}
			err := d.LastOf(t.Context(), subjects, func(m feed.Message) { found[m.Subject] = true })
			if err == nil && len(found) > 0 && len(found) < n {
				t.Errorf("the last of %d subjects", len(found))
			}
			all := map[string]bool{}
			if err := d.LeaderLastOf(t.Context(), append(subjects, "events.none"), func(m feed.Message) { all[m.Subject] = true }); err != nil || len(all) != n {
				t.Errorf("the leader has %d, %v", len(all), err)
			}
		})
	}
}

package emitter

import (
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/exesdb/subproxy/pkg/feed"
)

func TestMessagesThatAreNoEventsAreCountedOnceAndToldForAnHour(t *testing.T) {
	var s strays
	start := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	add := func(sequence uint64, after time.Duration) {
		s.add(&feed.Message{Subject: "exesdb.events.s.a", Sequence: sequence}, errors.New("no event"), start.Add(after))
	}
	if s.tell(start) != nil || s.news {
		t.Error("something is told before anything was found")
	}
	add(5, 0)
	add(7, time.Minute)
	s.news = false
	add(5, 2*time.Minute) // a pass reads them again
	add(7, 2*time.Minute)
	if p := s.tell(start.Add(time.Hour)); p == nil || p.Messages != 2 || p.Sequence != 7 || p.At != start.Add(time.Minute) || s.news {
		t.Errorf("told: %+v, news %t", p, s.news)
	}
	if p := s.tell(start.Add(time.Hour + time.Minute)); p != nil {
		t.Errorf("after an hour: %+v", p)
	}
	add(9, 2*time.Hour)
	if p := s.tell(start.Add(2 * time.Hour)); p == nil || p.Messages != 1 || !s.news {
		t.Errorf("the next: %+v, news %t", p, s.news)
	}
	s.forget()
	add(3, 2*time.Hour)
	if p := s.tell(start.Add(2 * time.Hour)); p.Messages != 2 || p.Sequence != 3 {
		t.Errorf("in another history: %+v", p)
	}
	if !s.say(start) || s.say(start.Add(59*time.Second)) || !s.say(start.Add(time.Minute)) {
		t.Error("it is not logged once a minute")
	}
	s.add(&feed.Message{Subject: strings.Repeat("é", 300), Sequence: 10}, errors.New(strings.Repeat("a\xff", 300)), start)
	if p := s.tell(start); len(p.Subject) > 200 || len(p.Reason) > 200 || !utf8.ValidString(p.Subject+p.Reason) {
		t.Errorf("long texts: %+v", p)
	}
}

package feed

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

func TestStreamThatConsumersEmptyIsNotFollowed(t *testing.T) {
	republish := &jetstream.RePublish{Source: ">", Destination: "stored.>"}
	for _, c := range []struct {
		name    string
		cfg     jetstream.StreamConfig
		refused bool
	}{
		{"limits", jetstream.StreamConfig{}, false},
		{"limits, republished", jetstream.StreamConfig{AllowDirect: true, RePublish: republish}, false},
		{"interest", jetstream.StreamConfig{Retention: jetstream.InterestPolicy}, true},
		{"interest, republished", jetstream.StreamConfig{Retention: jetstream.InterestPolicy, AllowDirect: true, RePublish: republish}, true},
		{"work queue", jetstream.StreamConfig{Retention: jetstream.WorkQueuePolicy, AllowDirect: true}, true},
		{"work queue, no direct get", jetstream.StreamConfig{Retention: jetstream.WorkQueuePolicy, RePublish: republish}, true},
		{"work queue, republished", jetstream.StreamConfig{Retention: jetstream.WorkQueuePolicy, AllowDirect: true, RePublish: republish}, false},
		{"work queue, partly republished", jetstream.StreamConfig{
			Retention: jetstream.WorkQueuePolicy, AllowDirect: true, RePublish: &jetstream.RePublish{Source: "a.>", Destination: "stored.>"},
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.cfg.Name, c.cfg.Subjects = "ORD", []string{"ord.>"}
			var retention *RetentionError
			if err := Check(c.cfg); errors.As(err, &retention) != c.refused {
				t.Fatal(err)
			}
			if c.refused && (retention.Stream != "ORD" || retention.Retention != c.cfg.Retention) {
				t.Errorf("%+v", retention)
			}
		})
	}
}

func TestTroubleIsToldOnceItLastsAndRetentionAtOnce(t *testing.T) {
	start := time.Now()
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	passing, lasting := errors.New("passing"), &RetentionError{Stream: "ORD", Retention: jetstream.InterestPolicy}
	expect := func(t *testing.T, tr *trouble, now time.Time, want error, tell bool) {
		t.Helper()
		if err, told := tr.news(now); told != tell || !errors.Is(err, want) {
			t.Fatalf("%v, %v; want %v, %v", err, told, want, tell)
		}
	}
	t.Run("passing", func(t *testing.T) {
		var tr trouble
		tr.hinder(passing, 3, at(0))
		expect(t, &tr, at(4), nil, false)
		tr.mend(3, true)
		expect(t, &tr, at(4), nil, false)
	})
	t.Run("lasting", func(t *testing.T) {
		var tr trouble
		tr.hinder(passing, 3, at(0))
		tr.mend(3, false) // an answer alone mends nothing
		tr.hinder(passing, 3, at(5))
		expect(t, &tr, at(5), passing, true)
		expect(t, &tr, at(6), passing, false)
		tr.mend(4, false) // it moves
		expect(t, &tr, at(7), nil, true)
	})
	t.Run("moving in between", func(t *testing.T) {
		var tr trouble
		for s := range 20 {
			tr.hinder(passing, uint64(s), at(s))
			expect(t, &tr, at(s), nil, false)
		}
	})
	t.Run("retention", func(t *testing.T) {
		var tr trouble
		tr.hinder(lasting, 3, at(0))
		expect(t, &tr, at(0), lasting, true)
		tr.mend(3, true)
		expect(t, &tr, at(1), nil, true)
	})
}

func TestSameTroubleIsLoggedOnceAMinute(t *testing.T) {
	start := time.Now()
	said := func(every time.Duration, text func(i int) string, mended bool) (n int) {
		var tr trouble
		for at := time.Duration(0); at < 5*time.Minute; at += every {
			if tr.hinder(errors.New(text(int(at/every))), 0, start.Add(at)) {
				n++
			}
			if mended {
				tr.mend(0, true)
			}
		}
		return n
	}
	same := func(int) string { return "refused" }
	if n := said(time.Second, same, false); n != 5 {
		t.Errorf("the same a second for five minutes: %d lines", n)
	}
	if n := said(time.Second, same, true); n != 5 {
		t.Errorf("the same, mended in between: %d lines", n)
	}
	if n := said(time.Second, func(i int) string { return fmt.Sprint("delivery ", i) }, false); n > 30 {
		t.Errorf("another each second: %d lines", n)
	}
}

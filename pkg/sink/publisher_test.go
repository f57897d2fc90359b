package sink

import (
	"context"
	"errors"
	"regexp"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// publishing is a publisher on a connection that reports what the server refuses, if it does not stop to.
func (w *world) publishing(reports bool) *Publisher {
	w.Helper()
	nc, err := nats.Connect(w.node.URL(), nats.UserInfo("subproxy", "subproxy"), nats.ReconnectBufSize(-1), nats.ReconnectWait(time.Millisecond))
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(nc.Close)
	p := NewPublisher(nc)
	quoted := regexp.MustCompile(`"(.*)"`)
	nc.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		if !reports {
			return
		}
		time.Sleep(10 * time.Microsecond) // it lags behind
		subject := ""
		if m := quoted.FindStringSubmatch(err.Error()); m != nil {
			subject = m[1]
		}
		p.Report(err, subject, err)
	})
	return p
}

func denying(subjects ...string) func(*server.Options) {
	return func(o *server.Options) {
		o.Users = []*server.User{{Username: "subproxy", Password: "subproxy", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: subjects}}}}
	}
}

func TestReceiptTellsOfEachSubjectWhetherTheServerTookIt(t *testing.T) {
	w := start(t, denying("not", "neither"))
	p := w.publishing(true)
	publish := func(subject string, n int) {
		for range n {
			if err := p.nc.Publish(subject, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	before := p.Mark()
	for range 20 {
		publish("not", 5)
		publish("taken", 1)
		publish("neither", 5) // LastError has only the last
	}
	r := p.Confirm(w.ctx)
	for _, subject := range []string{"not", "neither"} {
		if err := r.Of(before, subject); !errors.Is(err, ErrDenied) {
			t.Errorf("%s: %v", subject, err)
		}
	}
	if err := r.Of(before, "taken"); err != nil {
		t.Errorf("taken: %v", err)
	}
	after := p.Mark()
	if err := p.Confirm(w.ctx).Of(after, "not"); err != nil {
		t.Errorf("a later mark: %v", err)
	}
	publish("neither", 1)
	r = p.Confirm(w.ctx)
	if err := r.Of(after, "not"); err != nil {
		t.Errorf("another's refusal: %v", err)
	}
	if err := r.Of(before, "not"); !errors.Is(err, ErrDenied) {
		t.Errorf("an earlier mark: %v", err)
	}
}

func TestNothingIsConfirmedThatNobodyKnowsOf(t *testing.T) {
	w := start(t, denying("not"))
	silent := w.publishing(false)
	before := silent.Mark()
	if err := silent.nc.Publish("not", nil); err != nil {
		t.Fatal(err)
	}
	if err := silent.Confirm(w.ctx).Of(before, "taken"); !errors.Is(err, ErrUnconfirmed) {
		t.Errorf("a refusal that is not reported: %v", err)
	}

	p := w.publishing(true)
	before = p.Mark()
	if err := p.nc.Publish("taken", nil); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(w.ctx)
	cancel()
	if err := p.Confirm(ended).Of(before, "taken"); err != nil && !errors.Is(err, ErrUnconfirmed) {
		t.Errorf("the end: %v", err)
	}
	reconnected := make(chan struct{})
	p.nc.SetReconnectHandler(func(*nats.Conn) { close(reconnected) })
	if err := p.nc.ForceReconnect(); err != nil {
		t.Fatal(err)
	}
	<-reconnected
	// The new connection answers, and knows nothing of what was sent on the old one.
	if err := p.Confirm(w.ctx).Of(before, "taken"); !errors.Is(err, ErrUnconfirmed) {
		t.Errorf("another connection's answer: %v", err)
	}
}

func TestPublishSinkAcceptsWhatTheServerTook(t *testing.T) {
	w := start(t, denying("not"))
	o := Outlet{JetStream: w.js, Publisher: w.publishing(true)}
	heard := w.subscribe("taken")
	if err := w.nc.Flush(); err != nil { // the events come over another connection
		t.Fatal(err)
	}
	for subject, want := range map[string]error{"taken": nil, "not": ErrDenied} {
		s, err := o.New(Config{Kind: Publish, Subject: subject})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Deliver(w.ctx, newEvent(1, "")); !errors.Is(err, want) {
			t.Errorf("%s: %v", subject, err)
		}
		n, err := s.(Batcher).DeliverBatch(w.ctx, newEvents(2, 4))
		if want == nil && n != 3 || want != nil && n != 0 || !errors.Is(err, want) {
			t.Errorf("%s: %d of a batch, %v", subject, n, err)
		}
	}
	for range 4 {
		w.next(heard)
	}
}

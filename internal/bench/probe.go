package bench

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/exesdb/subproxy/pkg/backoff"
	"github.com/exesdb/subproxy/pkg/control"
)

const (
	echoSubject     = "bench.echo"
	statusEvery     = 5 * time.Millisecond
	reregisterEvery = 50 * time.Millisecond
	// probeWait is how long answers are waited for once a storm is over. What is not answered by then
	// counts with its age.
	probeWait = 5 * time.Second
)

// operator asks an instance what an operator would, on a connection of its own, and times the answers.
// Requests for a status go out at their times whether or not those before are answered: one that waits in a
// queue has waited.
//
// Beside it somebody else answers requests over the same servers at once: what that takes is NATS's and the
// machine's.
//
// Not counted are requests that nobody was there for, and those whose connection broke before they were
// answered.
type operator struct {
	nc      *nats.Conn
	echo    *nats.Conn // answers raw requests
	names   int
	replies string

	mu   sync.Mutex
	next uint64
	sent map[uint64]sent // requests that are not answered
	got  answers
}

// sent is a request for a status, or a raw one.
type sent struct {
	at  time.Time
	raw bool
}

// answers are what an operator got.
type answers struct {
	status  []time.Duration
	raw     []time.Duration // of requests that somebody else answers
	acted   []time.Duration // reregister of one name, to verified
	refused int             // requests that the instance answered with an error
	unmet   int             // of reregister: answered, and not verified
}

func (a *answers) add(b answers) {
	a.status, a.raw, a.acted = append(a.status, b.status...), append(a.raw, b.raw...), append(a.acted, b.acted...)
	a.refused, a.unmet = a.refused+b.refused, a.unmet+b.unmet
}

func newOperator(urls string, names int) (_ *operator, err error) {
	o := &operator{names: names, replies: nats.NewInbox(), sent: map[uint64]sent{}}
	defer func() {
		if err != nil {
			o.close()
		}
	}()
	often := []nats.Option{nats.MaxReconnects(-1), nats.ReconnectWait(20 * time.Millisecond), nats.ReconnectJitter(0, 0), nats.ReconnectBufSize(-1)}
	if o.nc, err = nats.Connect(urls, append(often, nats.DisconnectErrHandler(func(*nats.Conn, error) { o.forget() }))...); err != nil {
		return nil, err
	}
	if o.echo, err = nats.Connect(urls, often...); err != nil {
		return nil, err
	}
	if _, err = o.echo.Subscribe(echoSubject, func(m *nats.Msg) {
		_ = m.Respond(m.Data) // without a connection nobody waits for it
	}); err != nil {
		return nil, err
	}
	if _, err = o.nc.Subscribe(o.replies+".*", o.answered); err != nil {
		return nil, err
	}
	return o, errors.Join(o.echo.Flush(), o.nc.Flush())
}

func (o *operator) close() {
	for _, nc := range []*nats.Conn{o.nc, o.echo} {
		if nc != nil {
			nc.Close()
		}
	}
}

// begin asks until the returned function is called, which waits for the answers and returns them.
func (o *operator) begin(ctx context.Context) (end func() answers) {
	asking, stop := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() { o.ask(asking, control.Prefix+string(control.GetStatus), false) })
	work.Go(func() { o.ask(asking, echoSubject, true) })
	work.Go(func() { o.askReregister(asking) })
	return func() answers {
		stop()
		work.Wait()
		_ = until(ctx, probeWait, func() bool {
			o.mu.Lock()
			defer o.mu.Unlock()
			return len(o.sent) == 0
		})
		o.mu.Lock()
		defer o.mu.Unlock()
		for _, r := range o.sent {
			o.got.note(r, time.Since(r.at))
		}
		clear(o.sent)
		got := o.got
		o.got = answers{}
		return got
	}
}

func (o *operator) request() []byte {
	body, _ := json.Marshal(control.Request{Store: store, Name: subscriptionName(rand.IntN(o.names))}) // strings alone
	return body
}

// ask sends requests, each at its time.
func (o *operator) ask(ctx context.Context, subject string, raw bool) {
	tick := time.NewTicker(statusEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if !o.nc.IsConnected() {
			continue
		}
		o.mu.Lock()
		o.next++
		id := o.next
		o.sent[id] = sent{time.Now(), raw}
		o.mu.Unlock()
		if err := o.nc.PublishRequest(subject, o.replies+"."+strconv.FormatUint(id, 10), o.request()); err != nil {
			o.mu.Lock()
			delete(o.sent, id)
			o.mu.Unlock()
		}
	}
}

func (o *operator) answered(m *nats.Msg) {
	now := time.Now()
	id, err := strconv.ParseUint(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:], 10, 64)
	if err != nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	r, asked := o.sent[id]
	delete(o.sent, id)
	switch {
	case !asked || nobody(m):
	case m.Header.Get(micro.ErrorCodeHeader) != "":
		o.got.refused++
	default:
		o.got.note(r, now.Sub(r.at))
	}
}

func (a *answers) note(r sent, took time.Duration) {
	if r.raw {
		a.raw = append(a.raw, took)
		return
	}
	a.status = append(a.status, took)
}

// nobody reports whether the server says that there is nobody to answer.
func nobody(m *nats.Msg) bool { return len(m.Data) == 0 && m.Header.Get("Status") == "503" }

// forget drops what was asked on a connection that broke.
func (o *operator) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	clear(o.sent)
}

// askReregister asks one after the other, as an operator does.
func (o *operator) askReregister(ctx context.Context) {
	for backoff.Sleep(ctx, reregisterEvery) == nil {
		if !o.nc.IsConnected() {
			continue
		}
		began, broken := time.Now(), o.nc.Stats().Reconnects
		asked, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*probeWait)
		m, err := o.nc.RequestWithContext(asked, control.Prefix+string(control.Reregister), o.request())
		cancel()
		took := time.Since(began)
		o.mu.Lock()
		switch {
		case err == nil && m.Header.Get(micro.ErrorCodeHeader) != "":
			o.got.refused++
		case err == nil:
			var a control.ActionAnswer
			if json.Unmarshal(m.Data, &a) == nil && a.Verified == 1 {
				o.got.acted = append(o.got.acted, took)
			} else {
				o.got.unmet++
			}
		case took >= 2*probeWait && o.nc.IsConnected() && o.nc.Stats().Reconnects == broken:
			o.got.acted = append(o.got.acted, took) // at least that
		}
		o.mu.Unlock()
	}
}

// tell reports what was asked during a storm.
func (a *answers) tell(r *Report, what string) {
	tellProbe(r, what+"raw request and reply", a.raw)
	tellProbe(r, what+"status of one", a.status)
	r.target(what+"status of one, p99", micros(quantile(a.status, 0.99))/1000, micros(statusBound)/1000, "ms")
	tellProbe(r, what+"reregister of one", a.acted)
	if a.refused > 0 || a.unmet > 0 {
		r.note("%s%d requests were answered with an error, and %d reregistrations ended unverified.", what, a.refused, a.unmet)
	}
}

func tellProbe(r *Report, what string, took []time.Duration) {
	r.durations(what, took)
	r.number(what+", the longest", micros(quantile(took, 1)), "µs")
}

package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/nats-io/nuid"
)

// maxAnswers is how many requests are answered at once. More wait for their turn, in NATS's queue.
const maxAnswers = 64

// responder answers operators as a NATS micro service: to requests on its endpoints, and to PING, INFO and
// STATS (ADR-32). It answers requests side by side, each in a goroutine of its own: were they answered one
// after the other, many that are asked while all subscriptions register would wait for each other. The
// service of nats.go's micro (1.55) counts a request as done, and as without an error, when its handler
// returns; so it could do one or the other, and this counts when the answer is there. It has no queue
// groups: every instance hears every request, and those that it does not concern stay silent.
type responder struct {
	nc          *nats.Conn
	log         *slog.Logger
	identity    micro.ServiceIdentity
	description string
	started     time.Time
	slots       chan struct{} // one for each request that is being answered

	answering context.Context // ends with close
	cancel    context.CancelFunc
	work      sync.WaitGroup

	mu            sync.Mutex
	subscriptions []*nats.Subscription
	stats         []*micro.EndpointStats // by endpoint, in the order in which they were added
	closed        bool                   // no more requests are answered
}

func newResponder(nc *nats.Conn, name, version, description string, metadata map[string]string, log *slog.Logger) *responder {
	r := &responder{
		nc: nc, log: log, description: description, started: time.Now().UTC(), slots: make(chan struct{}, maxAnswers),
		identity: micro.ServiceIdentity{Name: name, ID: nuid.Next(), Version: version, Metadata: metadata},
	}
	r.answering, r.cancel = context.WithCancel(context.Background())
	return r
}

// serve begins to answer PING, INFO and STATS, once all endpoints were added.
func (r *responder) serve() error {
	for verb, tell := range map[micro.Verb]func() any{
		micro.PingVerb:  func() any { return micro.Ping{ServiceIdentity: r.identity, Type: micro.PingResponseType} },
		micro.InfoVerb:  func() any { return r.info() },
		micro.StatsVerb: func() any { return r.statistics() },
	} {
		for _, of := range [][2]string{{}, {r.identity.Name}, {r.identity.Name, r.identity.ID}} {
			subject, err := micro.ControlSubject(verb, of[0], of[1])
			if err == nil {
				err = r.subscribe(subject, func(m *nats.Msg) {
					if err := (&request{msg: m}).respond(tell()); err != nil {
						r.log.Debug("a question about the control service could not be answered", "subject", m.Subject, "error", err)
					}
				})
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// add adds an endpoint. Its handler answers before it returns, or never.
func (r *responder) add(name, subject string, handle func(context.Context, *request)) error {
	stats := &micro.EndpointStats{Name: name, Subject: subject}
	r.mu.Lock()
	r.stats = append(r.stats, stats)
	r.mu.Unlock()
	return r.subscribe(subject, func(m *nats.Msg) {
		select {
		case r.slots <- struct{}{}:
		case <-r.answering.Done():
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.closed {
			return
		}
		r.work.Go(func() {
			defer func() { <-r.slots }()
			r.handle(stats, &request{msg: m}, handle)
		})
	})
}

func (r *responder) subscribe(subject string, handle nats.MsgHandler) error {
	sub, err := r.nc.Subscribe(subject, handle)
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subscriptions = append(r.subscriptions, sub)
	return nil
}

func (r *responder) handle(stats *micro.EndpointStats, q *request, handle func(context.Context, *request)) {
	ctx, cancel := context.WithTimeout(r.answering, actionTimeout)
	defer cancel()
	begun := time.Now()
	handle(ctx, q)
	took := time.Since(begun)
	r.mu.Lock()
	defer r.mu.Unlock()
	stats.NumRequests++
	stats.ProcessingTime += took
	stats.AverageProcessingTime = stats.ProcessingTime / time.Duration(stats.NumRequests)
	if q.failure != "" {
		stats.NumErrors++
		stats.LastError = q.failure
	}
}

func (r *responder) info() micro.Info {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := micro.Info{ServiceIdentity: r.identity, Type: micro.InfoResponseType, Description: r.description}
	for _, s := range r.stats {
		i.Endpoints = append(i.Endpoints, micro.EndpointInfo{Name: s.Name, Subject: s.Subject})
	}
	return i
}

func (r *responder) statistics() micro.Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := micro.Stats{ServiceIdentity: r.identity, Type: micro.StatsResponseType, Started: r.started}
	for _, s := range r.stats {
		now := *s
		all.Endpoints = append(all.Endpoints, &now)
	}
	return all
}

// stop takes no more requests. Those that are there are answered.
func (r *responder) stop() {
	r.mu.Lock()
	subscriptions := r.subscriptions
	r.subscriptions = nil
	r.mu.Unlock()
	for _, sub := range subscriptions {
		if err := sub.Drain(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			r.log.Debug("stop the control service", "subject", sub.Subject, "error", err)
		}
	}
}

// close ends what is being answered, and waits for that.
func (r *responder) close() {
	r.stop()
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.work.Wait()
}

// request is one that an operator made.
type request struct {
	msg     *nats.Msg
	failure string // what it was refused with; empty: it was not
}

// respond sends an answer, or one part of it.
func (q *request) respond(answer any) error {
	data, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	return q.msg.RespondMsg(&nats.Msg{Data: data})
}

// refuse sends an error, as micro's headers have it, with the detail in the body.
func (q *request) refuse(code, description, detail string) error {
	q.failure = code + ":" + description // as micro has it
	body, err := json.Marshal(map[string]string{"error": detail})
	if err != nil {
		return err
	}
	return q.msg.RespondMsg(&nats.Msg{Data: body, Header: nats.Header{micro.ErrorHeader: {description}, micro.ErrorCodeHeader: {code}}})
}

// read reads the request's body, which is JSON. Empty is nothing. The error is in the words of the
// contract.
func (q *request) read(body any) error {
	if len(q.msg.Data) == 0 {
		return nil
	}
	err := json.Unmarshal(q.msg.Data, body)
	var wrong *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &wrong) && wrong.Field == "":
		return fmt.Errorf("the body is %s; it has to be a JSON object", named(wrong.Value))
	case errors.As(err, &wrong):
		return fmt.Errorf("%q is %s; it has to be %s", wrong.Field, named(wrong.Value), wanted(wrong.Type.Kind()))
	default:
		return fmt.Errorf("the body is not JSON: %w", err)
	}
}

// named names a JSON value as encoding/json describes it.
func named(value string) string {
	kind, number, _ := strings.Cut(value, " ")
	switch kind {
	case "string":
		return "a text"
	case "bool":
		return "true or false"
	case "array":
		return "a list"
	case "object":
		return "an object"
	}
	if number == "" {
		return "a number"
	}
	return "the number " + number
}

// wanted names the JSON value that a field of that kind takes.
func wanted(kind reflect.Kind) string {
	switch kind {
	case reflect.String:
		return "a text"
	case reflect.Bool:
		return "true or false"
	case reflect.Uint64:
		return "a whole number from 0 to 18446744073709551615"
	default:
		return "an object"
	}
}

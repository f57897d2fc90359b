package service

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/exesdb/subproxy/internal/instance"
	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/pkg/payload"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
	"github.com/nats-io/nats.go"
	"golang.org/x/time/rate"
)

// An action waits for the attempts it causes, which take no longer than a write's acknowledgement and a
// read-back; a status is known at once.
const (
	statusTimeout = 2 * time.Second
	actionTimeout = 10 * time.Second
)

// partSize is how many statuses go into one message of an answer, where the server takes so much in one.
const partSize = 200

// maxListed is how many statuses an action's answer carries.
const maxListed = 20

// controlService answers what operators ask: the micro service of pkg/control.
type controlService struct {
	*responder
	instance   *instance.Instance
	operators  *nats.Conn
	owner      registration.Owner
	version    string
	log        *slog.Logger
	unanswered rate.Sometimes // told that an answer could not be sent
}

// serveControl adds the micro service.
func (s *Service) serveControl() error {
	c := &controlService{
		instance: s.instance, operators: s.connections.operators, owner: s.owner, version: s.version, log: s.log,
		unanswered: rate.Sometimes{Interval: time.Minute},
	}
	c.responder = newResponder(
		s.connections.operators, control.ServiceName, s.version, "Keeps event-store subscriptions attached to a leader that moves",
		map[string]string{"instance": s.owner.Name, "instance_id": s.owner.ID, "host": s.owner.Host, "pid": fmt.Sprint(s.owner.PID)}, s.log,
	)
	s.control = c
	for _, e := range []struct {
		verb   control.Verb
		handle func(context.Context, *request)
	}{
		{control.GetStatus, c.narrowed(control.GetStatus, c.answerStatus)},
		{control.List, c.narrowed(control.List, c.answerList)},
		{control.Restart, c.narrowed(control.Restart, c.answerRestart)},
		{control.Reregister, c.narrowed(control.Reregister, c.answerReregister)},
		{control.Drain, c.answerDrain},
		{control.ResetTerm, c.answerResetTerm},
	} {
		if err := c.add(string(e.verb), control.Prefix+string(e.verb), e.handle); err != nil {
			return fmt.Errorf("add the control endpoint %s: %w", e.verb, err)
		}
	}
	if err := c.serve(); err != nil {
		return fmt.Errorf("add the control service: %w", err)
	}
	return nil
}

// narrowed reads a request that may name a store and a subscription, and has it handled.
func (c *controlService) narrowed(verb control.Verb, handle func(context.Context, *request, control.Request)) func(context.Context, *request) {
	return func(ctx context.Context, r *request) {
		var body control.Request
		err := r.read(&body)
		switch {
		case err != nil:
		case body.Name != "" && body.Store == "":
			err = fmt.Errorf(`%s needs the "store" of the "name"`, verb)
		case verb == control.Restart && body.Name == "":
			err = fmt.Errorf(`%s needs a "store" and a "name"`, verb)
		}
		if err != nil {
			c.fail(r, control.CodeBadRequest, control.BadRequest, err.Error())
			return
		}
		handle(ctx, r, body)
	}
}

func (c *controlService) answerStatus(ctx context.Context, r *request, body control.Request) {
	statuses, ok := c.statuses(ctx, r, body)
	if !ok {
		return
	}
	parts := payload.Parts(statuses, partSize, c.room(), (*status.Status).Size)
	for i, part := range parts {
		c.respond(r, control.StatusAnswer{
			Envelope: status.NewEnvelope(control.StatusAnswerType, time.Now()), Instance: c.describe(),
			Part: i + 1, Parts: len(parts), Proxies: part,
		})
	}
}

func (c *controlService) answerList(ctx context.Context, r *request, body control.Request) {
	statuses, ok := c.statuses(ctx, r, body)
	if !ok {
		return
	}
	listed := make([]control.Listed, 0, len(statuses))
	for _, st := range statuses {
		listed = append(listed, control.Listed{Store: st.Store, Name: st.Name, SubscriptionType: st.SubscriptionType, Selector: st.Selector, Health: st.Health})
	}
	parts := payload.Parts(listed, partSize, c.room(), (*control.Listed).Size)
	for i, part := range parts {
		c.respond(r, control.ListAnswer{
			Envelope: status.NewEnvelope(control.ListAnswerType, time.Now()), Instance: c.describe(), Part: i + 1, Parts: len(parts), Proxies: part,
		})
	}
}

// statuses are those that the request names. Where it names what is not configured here, this instance has
// none to tell of; and where nobody has that registered either, the request is refused, and ok is false.
func (c *controlService) statuses(ctx context.Context, r *request, body control.Request) (statuses []status.Status, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	statuses, err := c.instance.Supervisor().Statuses(ctx, body)
	known := len(statuses) > 0 || body.Store == ""
	if !known && err == nil {
		known, err = c.instance.Supervisor().Knows(ctx, body.Store, body.Name)
	}
	if err != nil {
		c.fail(r, control.CodeUnavailable, control.TemporaryFailure, err.Error())
		return nil, false
	}
	if !known {
		// Where the registry can't be read, another instance may know more.
		if registered, err := c.instance.Registry().List(ctx, body.Store, body.Name); err == nil && len(registered) == 0 {
			c.notFound(r, body)
			return nil, false
		}
	}
	return statuses, true
}

// notFound refuses a request that names what nobody has.
func (c *controlService) notFound(r *request, body control.Request) {
	what := fmt.Sprintf("no subscription of store %q", body.Store)
	switch {
	case body.Store == "":
		what = "no subscription"
	case body.Name != "":
		what = fmt.Sprintf("no subscription %q of store %q", body.Name, body.Store)
	}
	c.fail(r, control.CodeNotFound, control.ProxyNotFound, what+" is registered, or configured here")
}

// room is how many bytes of statuses one message of an answer may have. Nothing to tell is one empty part,
// so that the asker knows that this instance is there.
func (c *controlService) room() int {
	i := c.describe()
	return payload.Room(c.operators.MaxPayload()) - i.Size()
}

func (c *controlService) answerRestart(ctx context.Context, r *request, body control.Request) {
	c.act(ctx, r, body, c.instance.Supervisor().Restart)
}

func (c *controlService) answerReregister(ctx context.Context, r *request, body control.Request) {
	c.act(ctx, r, body, c.instance.Supervisor().Reregister)
}

// act performs an action on the proxies that this instance holds. Where it holds none it is silent if
// another instance may hold them, which the registry tells; where nobody does it says so.
func (c *controlService) act(ctx context.Context, r *request, body control.Request, do func(context.Context, string, string) ([]status.Status, error)) {
	held, err := c.instance.Supervisor().Holds(ctx, body.Store, body.Name)
	if err == nil && held == 0 {
		c.answerUnheld(ctx, r, body)
		return
	}
	var statuses []status.Status
	if err == nil {
		statuses, err = do(ctx, body.Store, body.Name)
	}
	if err != nil {
		c.fail(r, control.CodeUnavailable, control.TemporaryFailure, err.Error())
		return
	}
	a := control.ActionAnswer{Envelope: status.NewEnvelope(control.ActionAnswerType, time.Now()), Instance: c.describe(), Affected: len(statuses)}
	for _, st := range statuses {
		if st.InPlace() {
			a.Verified++
		}
	}
	a.Proxies = payload.Parts(statuses, maxListed, c.room(), (*status.Status).Size)[0]
	c.respond(r, a)
}

func (c *controlService) answerUnheld(ctx context.Context, r *request, body control.Request) {
	registered, err := c.instance.Registry().List(ctx, body.Store, body.Name)
	switch {
	case err != nil:
		c.fail(r, control.CodeUnavailable, control.TemporaryFailure, err.Error())
	case len(registered) == 0:
		c.notFound(r, body)
	}
}

// describe describes this instance.
func (c *controlService) describe() control.Instance {
	return control.Instance{Owner: c.owner, Version: c.version, Superseded: c.instance.Supervisor().Retired()}
}

// respond answers. Where that can't be sent, the asker is told so: without a word it would take this
// instance for gone.
func (c *controlService) respond(r *request, answer any) {
	err := r.respond(answer)
	if err == nil {
		return
	}
	c.unanswered.Do(func() {
		c.log.Warn("a control request could not be answered; others like it within a minute are passed over in silence", "subject", r.msg.Subject, "error", err)
	})
	c.fail(r, control.CodeUnavailable, control.TemporaryFailure, fmt.Sprintf("the answer of instance %s can't be sent (max_payload %d): %v", c.owner.Name, c.operators.MaxPayload(), err))
}

func (c *controlService) fail(r *request, code, description, detail string) {
	if err := r.refuse(code, description, detail); err != nil {
		c.log.Debug("a control request could not be refused", "subject", r.msg.Subject, "error", err)
	}
}

package service

import (
	"context"
	"fmt"
	"time"

	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/pkg/payload"
	"github.com/exesdb/subproxy/pkg/status"
)

// An action waits for the attempts it causes, which take no longer than a write's acknowledgement and a read-back; a
// status is known at once.
const (
	statusTimeout = 2 * time.Second
	actionTimeout = 10 * time.Second
)

// partSize is how many statuses go into one message of an answer, where the server takes so much in one.
const partSize = 200

// maxListed is how many statuses an action's answer carries.
const maxListed = 20

// serve adds the micro service.
func (s *Service) serve() error {
	s.control = newResponder(s.operators, control.ServiceName, s.version, "Keeps event-store subscriptions attached to a leader that moves",
		map[string]string{"instance": s.owner.Name, "instance_id": s.owner.ID, "host": s.owner.Host, "pid": fmt.Sprint(s.owner.PID)}, s.log)
	for _, e := range []struct {
		verb   control.Verb
		handle func(context.Context, *request)
	}{
		{control.GetStatus, s.narrowed(control.GetStatus, s.answerStatus)},
		{control.List, s.narrowed(control.List, s.answerList)},
		{control.Restart, s.narrowed(control.Restart, s.answerRestart)},
		{control.Reregister, s.narrowed(control.Reregister, s.answerReregister)},
		{control.Drain, s.answerDrain},
		{control.ResetTerm, s.answerResetTerm},
	} {
		if err := s.control.add(string(e.verb), control.Prefix+string(e.verb), e.handle); err != nil {
			return fmt.Errorf("add the control endpoint %s: %w", e.verb, err)
		}
	}
	if err := s.control.serve(); err != nil {
		return fmt.Errorf("add the control service: %w", err)
	}
	return nil
}

// narrowed reads a request that may name a store and a subscription, and has it handled.
func (s *Service) narrowed(verb control.Verb, handle func(context.Context, *request, control.Request)) func(context.Context, *request) {
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
			s.fail(r, control.CodeBadRequest, control.BadRequest, err.Error())
			return
		}
		handle(ctx, r, body)
	}
}

func (s *Service) answerStatus(ctx context.Context, r *request, body control.Request) {
	statuses, ok := s.statuses(ctx, r, body)
	if !ok {
		return
	}
	parts := payload.Parts(statuses, partSize, s.room(), (*status.Status).Size)
	for i, part := range parts {
		s.respond(r, control.StatusAnswer{
			Envelope: status.NewEnvelope(control.StatusAnswerType, time.Now()), Instance: s.Instance(),
			Part: i + 1, Parts: len(parts), Proxies: part,
		})
	}
}

func (s *Service) answerList(ctx context.Context, r *request, body control.Request) {
	statuses, ok := s.statuses(ctx, r, body)
	if !ok {
		return
	}
	listed := make([]control.Listed, 0, len(statuses))
	for _, st := range statuses {
		listed = append(listed, control.Listed{Store: st.Store, Name: st.Name, SubscriptionType: st.SubscriptionType, Selector: st.Selector, Health: st.Health})
	}
	parts := payload.Parts(listed, partSize, s.room(), (*control.Listed).Size)
	for i, part := range parts {
		s.respond(r, control.ListAnswer{
			Envelope: status.NewEnvelope(control.ListAnswerType, time.Now()), Instance: s.Instance(), Part: i + 1, Parts: len(parts), Proxies: part,
		})
	}
}

// statuses are those that the request names. Where it names what is not configured here, this instance has none to tell of; and
// where nobody has that registered either, the request is refused, and ok is false.
func (s *Service) statuses(ctx context.Context, r *request, body control.Request) (statuses []status.Status, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	statuses, err := s.instance.Supervisor().Statuses(ctx, body)
	known := len(statuses) > 0 || body.Store == ""
	if !known && err == nil {
		known, err = s.instance.Supervisor().Knows(ctx, body.Store, body.Name)
	}
	if err != nil {
		s.fail(r, control.CodeUnavailable, control.TemporaryFailure, err.Error())
		return nil, false
	}
	if !known {
		// Where the registry can't be read, another instance may know more.
		if registered, err := s.instance.Registry().List(ctx, body.Store, body.Name); err == nil && len(registered) == 0 {
			s.notFound(r, body)
			return nil, false
		}
	}
	return statuses, true
}

// notFound refuses a request that names what nobody has.
func (s *Service) notFound(r *request, body control.Request) {
	what := fmt.Sprintf("no subscription of store %q", body.Store)
	switch {
	case body.Store == "":
		what = "no subscription"
	case body.Name != "":
		what = fmt.Sprintf("no subscription %q of store %q", body.Name, body.Store)
	}
	s.fail(r, control.CodeNotFound, control.ProxyNotFound, what+" is registered, or configured here")
}

// room is how many bytes of statuses one message of an answer may have. Nothing to tell is one empty part, so that the asker knows
// that this instance is there.
func (s *Service) room() int {
	i := s.Instance()
	return payload.Room(s.operators.MaxPayload()) - i.Size()
}

func (s *Service) answerRestart(ctx context.Context, r *request, body control.Request) {
	s.act(ctx, r, body, s.instance.Supervisor().Restart)
}

func (s *Service) answerReregister(ctx context.Context, r *request, body control.Request) {
	s.act(ctx, r, body, s.instance.Supervisor().Reregister)
}

// act performs an action on the proxies that this instance holds. Where it holds none it is silent if another instance
// may hold them, which the registry tells; where nobody does it says so.
func (s *Service) act(ctx context.Context, r *request, body control.Request, do func(context.Context, string, string) ([]status.Status, error)) {
	held, err := s.instance.Supervisor().Holds(ctx, body.Store, body.Name)
	if err == nil && held == 0 {
		s.answerUnheld(ctx, r, body)
		return
	}
	var statuses []status.Status
	if err == nil {
		statuses, err = do(ctx, body.Store, body.Name)
	}
	if err != nil {
		s.fail(r, control.CodeUnavailable, control.TemporaryFailure, err.Error())
		return
	}
	a := control.ActionAnswer{Envelope: status.NewEnvelope(control.ActionAnswerType, time.Now()), Instance: s.Instance(), Affected: len(statuses)}
	for _, st := range statuses {
		if st.InPlace() {
			a.Verified++
		}
	}
	a.Proxies = payload.Parts(statuses, maxListed, s.room(), (*status.Status).Size)[0]
	s.respond(r, a)
}

func (s *Service) answerUnheld(ctx context.Context, r *request, body control.Request) {
	registered, err := s.instance.Registry().List(ctx, body.Store, body.Name)
	switch {
	case err != nil:
		s.fail(r, control.CodeUnavailable, control.TemporaryFailure, err.Error())
	case len(registered) == 0:
		s.notFound(r, body)
	}
}

// Instance describes this instance.
func (s *Service) Instance() control.Instance {
	return control.Instance{Owner: s.owner, Version: s.version, Superseded: s.instance.Supervisor().Retired()}
}

// respond answers. Where that can't be sent, the asker is told so: without a word it would take this instance for gone.
func (s *Service) respond(r *request, answer any) {
	err := r.respond(answer)
	if err == nil {
		return
	}
	s.unanswered.Do(func() {
		s.log.Warn("a control request could not be answered; others like it within a minute are passed over in silence", "subject", r.msg.Subject, "error", err)
	})
	s.fail(r, control.CodeUnavailable, control.TemporaryFailure, fmt.Sprintf("the answer of instance %s can't be sent (max_payload %d): %v", s.owner.Name, s.operators.MaxPayload(), err))
}

func (s *Service) fail(r *request, code, description, detail string) {
	if err := r.refuse(code, description, detail); err != nil {
		s.log.Debug("a control request could not be refused", "subject", r.msg.Subject, "error", err)
	}
}

package service

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/micro"

	"github.com/exesdb/subproxy/pkg/health"
	"github.com/exesdb/subproxy/pkg/payload"
)

// An action waits for the attempts it causes, which take no longer than a write's acknowledgement and a read-back; a
// status is known at once.
const (
	statusTimeout = 2 * time.Second
	actionTimeout = 10 * time.Second
)

// partSize is how many statuses go into one message of an answer, where the server takes so much in one.
const partSize = 200

// maxAnswers is how many requests are answered at once. More wait for their turn, in NATS's queue.
const maxAnswers = 64

// maxListed is how many statuses an action's answer carries.
const maxListed = 20

// serve adds the micro service. No endpoint has a queue group: every instance hears every request, and those that it
// does not concern stay silent.
func (s *Service) serve() error {
	service, err := micro.AddService(s.operators, micro.Config{
		Name: health.ServiceName, Version: s.version, Description: "Keeps event-store subscriptions attached to a leader that moves",
		Metadata:           map[string]string{"instance": s.owner.Name, "instance_id": s.owner.ID, "host": s.owner.Host, "pid": fmt.Sprint(s.owner.PID)},
		QueueGroupDisabled: true,
	})
	if err != nil {
		return fmt.Errorf("add the control service: %w", err)
	}
	s.control = service
	for verb, handle := range map[health.Verb]func(context.Context, micro.Request, health.Request){
		health.GetStatus:  s.answerStatus,
		health.List:       s.answerList,
		health.Restart:    s.answerRestart,
		health.Reregister: s.answerReregister,
	} {
		err := service.AddEndpoint(string(verb), micro.HandlerFunc(func(r micro.Request) { s.answer(r, verb, handle) }),
			micro.WithEndpointSubject(health.ControlPrefix+string(verb)))
		if err != nil {
			return fmt.Errorf("add the control endpoint %s: %w", verb, err)
		}
	}
	for verb, handle := range map[health.Verb]micro.HandlerFunc{health.Drain: s.answerDrain, health.ResetTerm: s.answerResetTerm} {
		err := service.AddEndpoint(string(verb), handle, micro.WithEndpointSubject(health.ControlPrefix+string(verb)))
		if err != nil {
			return fmt.Errorf("add the control endpoint %s: %w", verb, err)
		}
	}
	return nil
}

// answer reads the request and has it handled. Each is in a goroutine of its own: were they answered one after the other, many
// that are asked while all subscriptions register would wait for each other.
func (s *Service) answer(r micro.Request, verb health.Verb, handle func(context.Context, micro.Request, health.Request)) {
	var body health.Request
	if data := r.Data(); len(data) > 0 {
		if err := json.Unmarshal(data, &body); err != nil {
			s.fail(r, health.CodeBadRequest, health.BadRequest, fmt.Sprintf(`the body is not {"store":"…","name":"…"}: %v`, err))
			return
		}
	}
	if body.Name != "" && body.Store == "" || verb == health.Restart && body.Name == "" {
		s.fail(r, health.CodeBadRequest, health.BadRequest, string(verb)+" needs a store with a name")
		return
	}
	select {
	case s.answers <- struct{}{}:
	case <-s.answering.Done():
		return
	}
	s.serving.Lock()
	defer s.serving.Unlock()
	if s.closing {
		return
	}
	s.work.Go(func() {
		defer func() { <-s.answers }()
		ctx, cancel := context.WithTimeout(s.answering, actionTimeout)
		defer cancel()
		handle(ctx, r, body)
	})
}

func (s *Service) answerStatus(ctx context.Context, r micro.Request, body health.Request) {
	statuses, err := s.statuses(ctx, body)
	if err != nil {
		s.fail(r, health.CodeUnavailable, health.TemporaryFailure, err.Error())
		return
	}
	parts := payload.Parts(statuses, partSize, s.room(), (*health.Status).Size)
	for i, part := range parts {
		s.respond(r, health.StatusAnswer{
			Envelope: health.NewEnvelope(health.StatusAnswerType, time.Now()), Instance: s.Instance(),
			Part: i + 1, Parts: len(parts), Proxies: part,
		})
	}
}

func (s *Service) answerList(ctx context.Context, r micro.Request, body health.Request) {
	statuses, err := s.statuses(ctx, body)
	if err != nil {
		s.fail(r, health.CodeUnavailable, health.TemporaryFailure, err.Error())
		return
	}
	listed := make([]health.Listed, 0, len(statuses))
	for _, st := range statuses {
		listed = append(listed, health.Listed{Store: st.Store, Name: st.Name, SubscriptionType: st.SubscriptionType, Selector: st.Selector, Health: st.Health})
	}
	parts := payload.Parts(listed, partSize, s.room(), (*health.Listed).Size)
	for i, part := range parts {
		s.respond(r, health.ListAnswer{
			Envelope: health.NewEnvelope(health.ListAnswerType, time.Now()), Instance: s.Instance(), Part: i + 1, Parts: len(parts), Proxies: part,
		})
	}
}

func (s *Service) statuses(ctx context.Context, body health.Request) ([]health.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	return s.supervisor.Statuses(ctx, body)
}

// room is how many bytes of statuses one message of an answer may have. Nothing to tell is one empty part, so that the asker knows
// that this instance is there.
func (s *Service) room() int {
	i := s.Instance()
	return payload.Room(s.operators.MaxPayload()) - i.Size()
}

func (s *Service) answerRestart(ctx context.Context, r micro.Request, body health.Request) {
	s.act(ctx, r, body, s.supervisor.Restart)
}

func (s *Service) answerReregister(ctx context.Context, r micro.Request, body health.Request) {
	s.act(ctx, r, body, s.supervisor.Reregister)
}

// act performs an action on the proxies that this instance holds. Where it holds none it is silent if another instance
// may hold them, which the registry tells; where nobody does it says so.
func (s *Service) act(ctx context.Context, r micro.Request, body health.Request, do func(context.Context, string, string) ([]health.Status, error)) {
	held, err := s.supervisor.Holds(ctx, body.Store, body.Name)
	if err == nil && held == 0 {
		s.answerUnheld(ctx, r, body)
		return
	}
	var statuses []health.Status
	if err == nil {
		statuses, err = do(ctx, body.Store, body.Name)
	}
	if err != nil {
		s.fail(r, health.CodeUnavailable, health.TemporaryFailure, err.Error())
		return
	}
	a := health.ActionAnswer{Envelope: health.NewEnvelope(health.ActionAnswerType, time.Now()), Instance: s.Instance(), Affected: len(statuses)}
	for _, st := range statuses {
		if st.InPlace() {
			a.Verified++
		}
	}
	a.Proxies = payload.Parts(statuses, maxListed, s.room(), (*health.Status).Size)[0]
	s.respond(r, a)
}

func (s *Service) answerUnheld(ctx context.Context, r micro.Request, body health.Request) {
	registered, err := s.bucket.List(ctx, body.Store, body.Name)
	switch {
	case err != nil:
		s.fail(r, health.CodeUnavailable, health.TemporaryFailure, err.Error())
	case len(registered) == 0:
		what := strings.TrimSuffix(body.Store+"/"+body.Name, "/")
		s.fail(r, health.CodeNotFound, health.ProxyNotFound, fmt.Sprintf("no subscription %q is registered or configured here", what))
	}
}

// Instance describes this instance.
func (s *Service) Instance() health.Instance {
	return health.Instance{Owner: s.owner, Version: s.version, Superseded: s.supervisor.Retired()}
}

// respond answers. Where that can't be sent, the asker is told so: without a word it would take this instance for gone.
func (s *Service) respond(r micro.Request, answer any) {
	err := r.RespondJSON(answer)
	if err == nil {
		return
	}
	s.unanswered.Do(func() {
		s.log.Warn("a control request could not be answered; others like it within a minute are passed over in silence", "subject", r.Subject(), "error", err)
	})
	s.fail(r, health.CodeUnavailable, health.TemporaryFailure, fmt.Sprintf("the answer of instance %s can't be sent (max_payload %d): %v", s.owner.Name, s.operators.MaxPayload(), err))
}

func (s *Service) fail(r micro.Request, code, description, detail string) {
	body, _ := json.Marshal(map[string]string{"error": detail})
	if err := r.Error(code, description, body); err != nil {
		s.log.Debug("a control request could not be refused", "subject", r.Subject(), "error", err)
	}
}

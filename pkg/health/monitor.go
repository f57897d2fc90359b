package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/synadia-io/orbit.go/natsext"

	"github.com/exesdb/subproxy/pkg/breaker"
)

// Monitor asks the running instances over NATS. It is safe for concurrent use.
type Monitor struct {
	nc *nats.Conn
	// Stall is how long to wait for one more instance after the last answer; default 300 ms.
	Stall time.Duration
	// Patience is how long to wait for the first answer; default 2 s.
	Patience time.Duration
}

// NewMonitor makes a monitor on a connection that stays the caller's.
func NewMonitor(nc *nats.Conn) *Monitor {
	return &Monitor{nc: nc, Stall: 300 * time.Millisecond, Patience: 2 * time.Second}
}

// RefusedError is an instance's refusal of a control request.
type RefusedError struct {
	Code        string // of the micro error headers
	Description string
	Detail      string
}

func (e *RefusedError) Error() string {
	if e.Detail == "" {
		return e.Description
	}
	return e.Description + ": " + e.Detail
}

// Unwrap makes a refusal match ErrProxyNotFound where it is that.
func (e *RefusedError) Unwrap() error {
	if e.Description == ProxyNotFound {
		return ErrProxyNotFound
	}
	return nil
}

// ErrIncomplete is returned with what was received, where an instance's answer lacks parts.
var ErrIncomplete = errors.New("parts of an answer are missing")

// Statuses returns what every running instance has of the request's proxies. No instance running is no error: the
// answer is empty.
func (m *Monitor) Statuses(ctx context.Context, r Request) (instances []Instance, statuses []Status, err error) {
	missing := map[string]int{} // parts by instance id
	err = m.ask(ctx, GetStatus, r, natsext.RequestManyStall(m.Stall), func(data []byte) error {
		var a StatusAnswer
		if err := json.Unmarshal(data, &a); err != nil {
			return fmt.Errorf("an instance's answer: %w", err)
		}
		if _, seen := missing[a.Instance.ID]; !seen {
			missing[a.Instance.ID] = a.Parts
			instances = append(instances, a.Instance)
		}
		missing[a.Instance.ID]--
		statuses = append(statuses, a.Proxies...)
		return nil
	})
	for _, i := range instances {
		if n := missing[i.ID]; err == nil && n > 0 {
			err = fmt.Errorf("%w: %d of instance %s (%s)", ErrIncomplete, n, i.Name, i.ID)
		}
	}
	return instances, statuses, err
}

// Act sends restart or reregister, and returns the answers of the instances that hold any of the proxies. Where nobody
// answers within the monitor's patience, and for an unknown proxy, the error matches ErrProxyNotFound.
func (m *Monitor) Act(ctx context.Context, verb Verb, r Request) (answers []ActionAnswer, err error) {
	instances, holders, err := m.holders(ctx, r)
	if err != nil {
		return nil, err
	}
	// Where somebody watches all subjects, NATS does not tell that no instance listens.
	if instances == 0 {
		return nil, fmt.Errorf("%w: no running instance holds it", ErrProxyNotFound)
	}
	// Who answers is known beforehand, so that a slow one is waited for; where it is nobody, the refusal is awaited.
	err = m.ask(ctx, verb, r, natsext.RequestManyMaxMessages(max(holders, 1)), func(data []byte) error {
		var a ActionAnswer
		if err := json.Unmarshal(data, &a); err != nil {
			return fmt.Errorf("an instance's answer: %w", err)
		}
		answers = append(answers, a)
		return nil
	})
	if err == nil && len(answers) == 0 {
		err = fmt.Errorf("%w: no running instance holds it", ErrProxyNotFound)
	}
	return answers, err
}

// holders counts the instances that answer, and those that hold any of the request's proxies.
func (m *Monitor) holders(ctx context.Context, r Request) (instances, holders int, err error) {
	answered, statuses, err := m.Statuses(ctx, r)
	ids := map[string]bool{}
	for i := range statuses {
		if statuses[i].Health != breaker.Standby {
			ids[statuses[i].Owner.ID] = true
		}
	}
	return len(answered), len(ids), err
}

// ask publishes a request and hands on each answer, for as long as the option says. The last refusal is the error.
func (m *Monitor) ask(ctx context.Context, verb Verb, r Request, until natsext.RequestManyOpt, answer func([]byte) error) error {
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, m.patience(verb))
	defer cancel()
	replies, err := natsext.RequestMany(ctx, m.nc, ControlPrefix+string(verb), body, until)
	if err != nil {
		return fmt.Errorf("ask %s: %w", verb, err)
	}
	var refused error
	for reply, err := range replies {
		switch {
		case errors.Is(err, nats.ErrNoResponders):
			return refused
		case err != nil:
			return fmt.Errorf("ask %s: %w", verb, err)
		case reply.Header.Get(micro.ErrorHeader) != "":
			refused = refusal(reply)
		default:
			if err := answer(reply.Data); err != nil {
				return err
			}
		}
	}
	return refused
}

// patience for the first answer: an action answers when its attempts have ended.
func (m *Monitor) patience(verb Verb) time.Duration {
	if verb == Restart || verb == Reregister {
		return max(m.Patience, 12*time.Second)
	}
	return m.Patience
}

func refusal(reply *nats.Msg) error {
	var body struct {
		Error string `json:"error"`
	}
	// A refusal without a body is one all the same.
	_ = json.Unmarshal(reply.Data, &body)
	return &RefusedError{Code: reply.Header.Get(micro.ErrorCodeHeader), Description: reply.Header.Get(micro.ErrorHeader), Detail: body.Error}
}

package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/status"
)

// Client asks the running instances over NATS. It is safe for concurrent use.
type Client struct {
	nc *nats.Conn
	// AnswerGap is how long to wait for one more instance after the last answer; default 300 ms.
	AnswerGap time.Duration
	// FirstAnswerTimeout is how long to wait for the first answer; default 2 s.
	FirstAnswerTimeout time.Duration
}

// NewClient makes a client on a connection that stays the caller's.
func NewClient(nc *nats.Conn) *Client {
	return &Client{nc: nc, AnswerGap: 300 * time.Millisecond, FirstAnswerTimeout: 2 * time.Second}
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

// Statuses returns what every running instance has of the request's proxies. No instance running is no
// error: the answer is empty. Where all that run say that nobody has what the request names, the error
// matches ErrProxyNotFound.
func (c *Client) Statuses(ctx context.Context, r Request) (instances []Instance, statuses []status.Status, err error) {
	missing := map[string]int{} // parts by instance id
	err = c.ask(ctx, GetStatus, r, 0, func(data []byte) error {
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
	if errors.Is(err, ErrProxyNotFound) && len(instances) > 0 {
		err = nil // one does not know what another has
	}
	for _, i := range instances {
		if n := missing[i.ID]; err == nil && n > 0 {
			err = fmt.Errorf("%w: %d of instance %s (%s)", ErrIncomplete, n, i.Name, i.ID)
		}
	}
	return instances, statuses, err
}

// Request sends restart or reregister, and returns the answers of the instances that hold any of the
// proxies. Where nobody answers within the client's FirstAnswerTimeout, and for an unknown proxy, the error
// matches ErrProxyNotFound.
func (c *Client) Request(ctx context.Context, verb Verb, r Request) (answers []ActionAnswer, err error) {
	instances, holders, err := c.holders(ctx, r)
	if err != nil {
		return nil, err
	}
	// Where somebody watches all subjects, NATS does not tell that no instance listens.
	if instances == 0 {
		return nil, fmt.Errorf("%w: no running instance holds it", ErrProxyNotFound)
	}
	// Who answers is known beforehand, so that a slow one is waited for; where it is nobody, a refusal may
	// come.
	err = c.ask(ctx, verb, r, holders, func(data []byte) error {
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

// Drain tells the instance of that name to hold nothing, or with undo to take its share again. Where none
// answers within the client's FirstAnswerTimeout the error is ErrNoInstance.
func (c *Client) Drain(ctx context.Context, instance string, undo bool) (answer DrainAnswer, err error) {
	got := false
	err = c.ask(ctx, Drain, DrainRequest{Instance: instance, Undo: undo}, 1, func(data []byte) error {
		got = true
		return json.Unmarshal(data, &answer)
	})
	if err == nil && !got {
		err = ErrNoInstance
	}
	if err != nil {
		return DrainAnswer{}, fmt.Errorf("drain %s: %w", instance, err)
	}
	return answer, nil
}

// ResetTerm begins a store's count of terms again, and returns the answers of all instances that have the
// store. Where none has it the error matches ErrProxyNotFound.
func (c *Client) ResetTerm(ctx context.Context, store string, term uint64) (answers []ResetTermAnswer, err error) {
	_, statuses, err := c.Statuses(ctx, Request{Store: store})
	if err != nil {
		return nil, err
	}
	have := map[string]bool{}
	for i := range statuses {
		have[statuses[i].ReportedBy.ID] = true
	}
	if len(have) == 0 {
		return nil, fmt.Errorf("%w: no running instance has store %s", ErrProxyNotFound, store)
	}
	err = c.ask(ctx, ResetTerm, ResetTermRequest{Store: store, Term: term}, len(have), func(data []byte) error {
		var a ResetTermAnswer
		if err := json.Unmarshal(data, &a); err != nil {
			return fmt.Errorf("an instance's answer: %w", err)
		}
		answers = append(answers, a)
		return nil
	})
	if err == nil && len(answers) < len(have) {
		err = fmt.Errorf("%w: %d of %d instances answered", ErrIncomplete, len(answers), len(have))
	}
	return answers, err
}

// holders counts the instances that answer, and those that hold any of the request's proxies.
func (c *Client) holders(ctx context.Context, r Request) (instances, holders int, err error) {
	answered, statuses, err := c.Statuses(ctx, r)
	ids := map[string]bool{}
	for i := range statuses {
		if statuses[i].Health != breaker.Standby {
			ids[statuses[i].ReportedBy.ID] = true
		}
	}
	return len(answered), len(ids), err
}

// longest bounds an answer of many parts from many instances.
const longest = time.Minute

// ask publishes a request and hands on each answer: that many, or where want is 0, until none came for the
// AnswerGap. The last refusal is the error; proxy_not_found is one only where no answer is wanted from
// anybody who holds the proxy.
func (c *Client) ask(ctx context.Context, verb Verb, r any, want int, answer func([]byte) error) error {
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	inbox := c.nc.NewInbox()
	replies, err := c.nc.SubscribeSync(inbox)
	if err != nil {
		return fmt.Errorf("ask %s: %w", verb, err)
	}
	defer func() { _ = replies.Unsubscribe() }() // it fails on a closed connection only
	// 100,000 statuses are 70 MB, and come faster than they are decoded.
	if err := replies.SetPendingLimits(-1, -1); err != nil {
		return fmt.Errorf("ask %s: %w", verb, err)
	}
	if err := c.nc.PublishRequest(Prefix+string(verb), inbox, body); err != nil {
		return fmt.Errorf("ask %s: %w", verb, err)
	}
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	var refused error
	wait := c.FirstAnswerTimeout
	if want > 0 {
		wait = c.firstAnswerTimeout(verb)
	}
	for got := 0; want == 0 || got < want; {
		reply, err := next(ctx, replies, wait)
		switch {
		case errors.Is(err, nats.ErrTimeout), errors.Is(err, nats.ErrNoResponders), errors.Is(err, context.DeadlineExceeded):
			return refused
		case err != nil:
			return fmt.Errorf("ask %s: %w", verb, err)
		}
		if want == 0 {
			wait = c.AnswerGap
		}
		if reply.Header.Get(micro.ErrorHeader) == "" {
			if err := answer(reply.Data); err != nil {
				return err
			}
			got++
			continue
		}
		if err := refusal(reply); want == 0 || !errors.Is(err, ErrProxyNotFound) {
			refused = err
			got++
		}
	}
	return refused
}

func next(ctx context.Context, replies *nats.Subscription, wait time.Duration) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	m, err := replies.NextMsgWithContext(ctx)
	if err == nil && len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		return nil, nats.ErrNoResponders
	}
	return m, err
}

// firstAnswerTimeout for the first answer: an action answers when its attempts have ended.
func (c *Client) firstAnswerTimeout(verb Verb) time.Duration {
	if verb == Restart || verb == Reregister || verb == Drain || verb == ResetTerm {
		return max(c.FirstAnswerTimeout, 12*time.Second)
	}
	return c.FirstAnswerTimeout
}

func refusal(reply *nats.Msg) error {
	var body struct {
		Error string `json:"error"`
	}
	// A refusal without a body is one all the same.
	_ = json.Unmarshal(reply.Data, &body)
	return &RefusedError{Code: reply.Header.Get(micro.ErrorCodeHeader), Description: reply.Header.Get(micro.ErrorHeader), Detail: body.Error}
}

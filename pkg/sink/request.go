package sink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/exesdb/subproxy/pkg/deadletter"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// What a reply begins with that does not accept the event. The words are those of JetStream's
// acknowledgements.
var refusals = []struct {
	prefix []byte
	final  bool
}{
	{[]byte("-NAK"), false}, {[]byte("-ERR"), false}, {[]byte("+TERM"), true},
}

type requestSink struct {
	nc      *nats.Conn
	subject string
	timeout time.Duration
	denials *Denials
}

func (s *requestSink) Deliver(ctx context.Context, e *Event) error {
	limited, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	limited, release := s.denials.during(limited, s.subject)
	defer release()
	m := e.Message
	m.Subject, m.Reply = s.subject, ""
	reply, err := s.nc.RequestMsgWithContext(limited, m)
	switch {
	case err == nil:
		return refusal(reply)
	case denied(limited) != nil:
		return fmt.Errorf("forward to %s: %w", s.subject, denied(limited))
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%w on %s", ErrNoSubscriber, s.subject)
	case ctx.Err() == nil && limited.Err() != nil:
		return fmt.Errorf("%w on %s within %v", ErrNoReply, s.subject, s.timeout)
	default:
		return undeliverable(s.nc, s.subject, m, err)
	}
}

// superseded is what follows -ERR, or is micro's error, where the event's incarnation is to blame and not
// the event. More may follow.
const superseded = "superseded"

// refusal reads a reply. Any that is not known to refuse accepts: an empty one, +ACK, a service's response.
func refusal(reply *nats.Msg) error {
	code, text := reply.Header.Get(micro.ErrorCodeHeader), reply.Header.Get(micro.ErrorHeader)
	body, _ := bytes.CutPrefix(reply.Data, []byte("-ERR "))
	switch {
	case saysSuperseded(text):
		return fmt.Errorf("%w: %s", ErrSuperseded, deadletter.OneLine(text))
	case code == "" && text == "" && len(body) < len(reply.Data) && saysSuperseded(string(body)):
		return fmt.Errorf("%w: %s", ErrSuperseded, deadletter.OneLine(string(body)))
	case code != "" && text != "":
		return &RefusedError{Reason: code + " " + text}
	case code != "" || text != "":
		return &RefusedError{Reason: code + text}
	}
	for _, r := range refusals {
		if rest, ok := bytes.CutPrefix(reply.Data, r.prefix); ok {
			reason := deadletter.OneLine(string(rest))
			if reason == "" {
				reason = "the subscriber replied " + string(r.prefix) + " and gave no reason"
			}
			return &RefusedError{Reason: reason, Final: r.final}
		}
	}
	return nil
}

func saysSuperseded(reason string) bool {
	word, _, _ := strings.Cut(strings.TrimSpace(reason), " ")
	return word == superseded
}

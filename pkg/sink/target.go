package sink

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// ErrUnfit is matched by the errors of a stream that can't be a stream sink's: it would not acknowledge, or
// for good take no more. Each says what mends it.
var ErrUnfit = errors.New("unfit for a stream sink")

// Target is the stream that a stream sink stores in.
type Target struct {
	Stream string        // empty where it is not known
	Window time.Duration // within which it knows a message id again; 0 where the user may not look at the stream
}

// lookWithin bounds the look at a stream. Who may not look is not answered.
const lookWithin = time.Second

// look asks for the stream on a subject, and judges it. A stream that may not be looked at is not judged.
func look(ctx context.Context, js jetstream.JetStream, denials *Denials, subject string) (Target, error) {
	name, err := js.StreamNameBySubject(ctx, subject)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return Target{}, fmt.Errorf("%w on %s; change forward.subject, or create one: nats stream add NAME --subjects='%s' --defaults", ErrNoStream, subject, subject)
	case err != nil:
		return Target{}, fmt.Errorf("look for the stream that listens on %s (forward.subject): %w", subject, err)
	}
	limited, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	limited, release := denials.during(limited, strings.TrimSuffix(js.Options().APIPrefix, ".")+".STREAM.INFO."+name)
	defer release()
	stream, err := js.Stream(limited, name)
	if err != nil {
		return Target{Stream: name}, nil
	}
	c := stream.CachedInfo().Config
	return Target{Stream: name, Window: c.Duplicates}, judge(&c, subject)
}

// judge is ErrUnfit for a stream in which an event can't be stored and acknowledged, however long it is
// tried.
func judge(c *jetstream.StreamConfig, subject string) error {
	reason, cure := "", ""
	switch {
	case c.NoAck:
		reason, cure = "it acknowledges nothing (no_ack)", fmt.Sprintf("mend it with: nats stream edit %s --ack", c.Name)
	case c.Sealed:
		reason, cure = "it is sealed, which can't be undone", "change forward.subject, or create another stream for it"
	case c.AllowMsgCounter:
		reason, cure = "it counts (allow_msg_counter) and stores no other messages, which can't be undone", "change forward.subject, or create another stream for it"
	case c.Discard == jetstream.DiscardNew && c.DiscardNewPerSubject && c.MaxMsgsPerSubject > 0:
		reason = fmt.Sprintf("it refuses what comes after the first %d messages on a subject (discard_new_per_subject), and the sink has one subject", c.MaxMsgsPerSubject)
		cure = fmt.Sprintf("mend it with: nats stream edit %s --no-discard-per-subject", c.Name)
	default:
		return nil
	}
	return fmt.Errorf("%w: stream %s, which listens on %s (forward.subject): %s; %s", ErrUnfit, c.Name, subject, reason, cure)
}

// fits looks again at a stream that was unfit: what it does not acknowledge it may store all the same, once
// for each attempt.
func (s *streamSink) fits(ctx context.Context) error {
	if !s.unfit.Load() {
		return nil
	}
	return s.unfitNow(ctx)
}

// unfitNow is ErrUnfit where the stream is, and nil where it is fit or can't be judged.
func (s *streamSink) unfitNow(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	_, err := look(limited, s.js, s.denials, s.subject)
	if !errors.Is(err, ErrUnfit) {
		err = nil
	}
	s.unfit.Store(err != nil)
	return err
}

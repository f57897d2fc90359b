package deadletter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// Inspect looks whether the stream is there, and whether it is as Open needs it, and changes nothing: where
// it is not, the error is ErrWrongStream, with all that is wrong and the command that mends it.
func Inspect(ctx context.Context, js jetstream.JetStream) (there bool, err error) {
	stream, err := js.Stream(ctx, Stream)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look at stream %s: %w", Stream, err)
	}
	return true, check(stream)
}

// check finds what would lose what is parked, or make it unreadable. How long it is kept, and how much, is
// the user's choice.
func check(stream jetstream.Stream) error {
	cfg := stream.CachedInfo().Config
	listens := slices.ContainsFunc(cfg.Subjects, func(s string) bool {
		return s == Prefix+">" || s == Prefix+"*.*" || s == "exesdb.>" || s == ">"
	})
	var wrong, flags []string
	fixed := false
	add := func(is bool, flag, what string) {
		if is {
			wrong, flags = append(wrong, what), append(flags, flag)
			fixed = fixed || flag == ""
		}
	}
	add(cfg.Sealed, "", "it is sealed")
	add(cfg.Mirror != nil, "", "it is a mirror")
	add(cfg.AllowMsgCounter, "", "it takes numbers only (allow_msg_counter)")
	add(cfg.Retention == jetstream.WorkQueuePolicy, "", "its retention is workqueue and not limits")
	add(cfg.DenyDelete, "", "it denies deletions (deny_delete), which parked replay and drop need")
	add(cfg.Retention == jetstream.InterestPolicy, "--retention=limits", "its retention is interest and not limits")
	add(!listens && cfg.Mirror == nil, fmt.Sprintf("--subjects='%s>'", Prefix), fmt.Sprintf("it listens on %s and not on %s>", strings.Join(cfg.Subjects, ", "), Prefix))
	add(cfg.SubjectTransform != nil, "--no-transform", "it has a subject_transform")
	add(!cfg.AllowDirect, "--allow-direct", "it lacks allow_direct (direct get)")
	add(cfg.NoAck, "--ack", "it does not acknowledge (no_ack)")
	add((cfg.MaxMsgs > 0 || cfg.MaxBytes > 0 || cfg.MaxMsgsPerSubject > 0) && cfg.Discard != jetstream.DiscardNew, "--discard=new",
		"its limits drop the oldest parked events (discard old)")
	add(cfg.MaxMsgsPerSubject > 0 && !cfg.DiscardNewPerSubject, "--discard-per-subject", "its max_msgs_per_subject drops a subscription's oldest parked events (no discard_new_per_subject)")
	switch {
	case len(wrong) == 0:
		return nil
	case fixed:
		return fmt.Errorf("%w: %s; that can't be changed, so replay what it holds, move it away or delete it, and it is made anew: nats stream rm %s",
			ErrWrongStream, strings.Join(wrong, "; "), Stream)
	default:
		return fmt.Errorf("%w: %s; mend it with: nats stream edit %s %s", ErrWrongStream, strings.Join(wrong, "; "), Stream, strings.Join(flags, " "))
	}
}

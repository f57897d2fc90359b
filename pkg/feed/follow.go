package feed

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// pollSpacing is the least time between polls, however many reasons there are.
	pollSpacing = 20 * time.Millisecond
	// settleAfter is when to look again after a subscription was made or renewed: the interest in it takes
	// a moment to reach all servers, and what is republished meanwhile is not heard.
	settleAfter = 100 * time.Millisecond
)

// follower follows the stream through one source, until that or the stream is no more. It belongs to Run's
// goroutine.
type follower struct {
	*Feed
	src    source
	config jetstream.StreamConfig
	direct bool // direct get may be used
	inbox  string
	timer  *time.Timer

	poll      poll // the latest
	nextPoll  time.Time
	settling  bool    // look once more after settleAfter
	checkLast bool    // compare the last message at the next opportunity
	suspicion Witness // the live message that gave reason to
	deaf      int     // looks in a row that found messages, since the last live one
	retryAt   time.Time
	failures  int
	levelAt   uint64
	levelSet  bool
}

// poll is one look at the stream's end. Only the latest one's answer counts.
type poll struct {
	id   uint64
	sent time.Time
	last uint64    // cursor.last then
	at   time.Time // cursor.at then

	answered bool
}

type report struct {
	id   string
	at   time.Time // when it came
	info *jetstream.StreamInfo
	err  error
}

func (f *Feed) follow(ctx context.Context, info *jetstream.StreamInfo) error {
	inbox := f.api.nc.NewInbox()
	answers, err := f.api.nc.Subscribe(inbox+".*", func(m *nats.Msg) {
		info, err := decodeInfo(m)
		f.mail.Store(&report{id: m.Subject[len(inbox)+1:], at: time.Now(), info: info, err: err})
		f.waker.wake()
	})
	if err != nil {
		return fmt.Errorf("subscribe %s.*: %w", inbox, err)
	}
	defer func() { _ = answers.Unsubscribe() }() // fails only if the connection is closed
	src, err := f.open(ctx, info)
	if err != nil {
		return err
	}
	defer src.close()

	s := &follower{Feed: f, src: src, config: info.Config, direct: !f.cur.ordered, inbox: inbox,
		nextPoll: time.Now(), settling: true, timer: time.AfterFunc(time.Hour, f.waker.wake)}
	defer s.timer.Stop()
	return s.loop(ctx)
}

// open picks the way to follow the stream and subscribes.
func (f *Feed) open(ctx context.Context, info *jetstream.StreamInfo) (source, error) {
	subject := republished(info.Config)
	mode := ModeRepublish
	if subject == "" {
		mode = ModeOrdered
	}
	if old := f.counts.mode.Swap(&mode); old == nil || *old != mode {
		f.log.Info("following the stream", "mode", mode, "republish", subject, "from", f.cur.last+1)
	}
	f.cur.live = 0
	f.cur.ordered = mode == ModeOrdered
	if !f.cur.ordered {
		return openRepublish(f.api.nc, f.cfg.Stream, subject)
	}
	f.cur.lastAtPoll = ^uint64(0) // let it come up first
	f.cur.trustOld = true         // consumers end with their stream: this one reads no other
	return openOrdered(ctx, f.api, f.cur.last+1)
}

// loop waits for messages, and is rung out of waiting for all else.
func (s *follower) loop(ctx context.Context) error {
	wait := s.waker.reset(ctx)
	if err := s.attend(ctx); err != nil {
		return err
	}
	for {
		m, err := s.src.next(wait)
		switch {
		case err == nil:
			s.hear(ctx, m)
		case ctx.Err() != nil:
			return ctx.Err()
		case wait.Err() != nil:
			wait = s.waker.reset(ctx) // first, then look who woke it
			if err := s.attend(ctx); err != nil {
				return err
			}
		case errors.Is(err, errLost):
			s.log.Warn("handler too slow for live messages, reading them from the stream")
			s.lookSoon(0)
		case errors.Is(err, errHidden):
			s.cur.target = max(s.cur.target, s.cur.last+1)
			s.gap(ctx)
		default:
			return err
		}
	}
}

func (s *follower) hear(ctx context.Context, m Message) {
	s.deaf = 0
	if s.back.Load() {
		s.doubt()
	}
	if s.guard.isUp() && !s.cur.ordered {
		s.hint(ctx, m.witness())
		return
	}
	switch v := s.cur.hear(m.Sequence, m.Time); {
	case (v == deliver || v == fill) && s.doubtful(): // it is read once the doubt is dispelled
		s.cur.target = max(s.cur.target, m.Sequence)
	case v == deliver:
		s.deliver(m)
	case v == fill:
		s.gap(ctx)
		if s.cur.last < m.Sequence && s.failures == 0 {
			s.guard.missed(m.Sequence, time.Now())
		}
	case v == suspect:
		s.doubt()
		s.checkLast, s.suspicion = true, m.witness()
		s.lookSoon(0)
		s.counts.duplicates.Add(1)
	default:
		s.counts.duplicates.Add(1)
	}
}

func (s *follower) deliver(m Message) {
	s.cur.advance(m.Sequence, m.Time)
	if s.guard.isUp() {
		s.guard.note(m.witness())
	}
	s.counts.received.Add(1)
	s.counts.last.Store(m.Sequence)
	s.cfg.Handler.Message(m)
	if s.levelSet && !s.level && m.Sequence >= s.levelAt {
		s.reachLevel(m.Sequence)
	}
}

// attend does what is due: reads the answer to a poll, tries a failed fill again, polls.
func (s *follower) attend(ctx context.Context) error {
	if s.back.Swap(false) {
		s.doubt()
		s.checkLast, s.settling = true, true
	}
	if s.poked.Swap(false) {
		s.lookSoon(0)
	}
	if r := s.mail.Swap(nil); r != nil && r.id == strconv.FormatUint(s.poll.id, 10) {
		s.poll.answered = true
		s.api.link.Observe(r.at.Sub(s.poll.sent))
		err := s.look(ctx, r)
		s.counts.polls.Add(1)
		if err != nil {
			return err
		}
	}
	if s.cur.target > s.cur.last && !time.Now().Before(s.retryAt) && !s.doubtful() {
		s.fill(ctx)
	}
	now := time.Now()
	if !now.Before(s.nextPoll) {
		s.ask(now)
	}
	next := s.nextPoll
	if s.cur.target > s.cur.last && s.retryAt.Before(next) {
		next = s.retryAt
	}
	s.timer.Reset(next.Sub(now))
	return nil
}

// lookSoon moves the next poll forward.
func (s *follower) lookSoon(in time.Duration) {
	now := time.Now()
	at := now.Add(in)
	if earliest := s.poll.sent.Add(s.spacing()); at.Before(earliest) {
		at = earliest
	}
	if at.Before(s.nextPoll) {
		s.nextPoll = at
		s.timer.Reset(at.Sub(now))
	}
}

// spacing is the least time from the latest poll to the next, which has its answer not count any more.
func (s *follower) spacing() time.Duration {
	if s.poll.answered {
		return pollSpacing
	}
	return max(pollSpacing, s.api.link.Patience(0))
}

// ask sends a poll; its answer, if any, rings. So a stream without a leader holds up nothing.
func (s *follower) ask(now time.Time) {
	s.nextPoll = now.Add(s.cfg.pollInterval)
	if s.settling && s.cfg.pollInterval > settleAfter {
		s.nextPoll = now.Add(settleAfter)
	}
	if !s.api.nc.IsConnected() {
		return
	}
	if least := now.Add(s.api.link.Patience(0)); s.nextPoll.Before(least) {
		s.nextPoll = least
	}
	s.settling = false
	s.asked++
	s.poll = poll{id: s.asked, sent: now, last: s.cur.last, at: s.cur.at}
	if err := s.api.nc.PublishRequest(s.api.infoSubject(), s.inbox+"."+strconv.FormatUint(s.poll.id, 10), nil); err != nil {
		s.log.Warn("poll failed", "error", err)
	}
}

// look acts on the answer to a poll.
func (s *follower) look(ctx context.Context, r *report) error {
	if r.err != nil {
		notFound := errors.Is(r.err, jetstream.ErrStreamNotFound)
		if notFound {
			s.hindered(r.err)
		}
		if notFound && s.cfg.Absent != nil {
			s.cfg.Absent()
		}
		return nil
	}
	info := r.info
	if !reflect.DeepEqual(info.Config.RePublish, s.config.RePublish) || info.Config.AllowDirect != s.config.AllowDirect ||
		info.Config.Retention != s.config.Retention {
		return errReopen
	}
	end := tail{created: info.Created, last: info.State.LastSeq, at: info.State.LastTime}
	if !s.levelSet {
		s.levelAt, s.levelSet = end.last, true
	}
	s.guard.lower(time.Now())
	if s.guard.proven(end.last, s.poll.sent) {
		s.foreign(time.Now())
	}
	v := s.cur.look(end, s.poll.sent, s.poll.last, time.Now())
	if v == renamed {
		if err := s.recognize(ctx, info); errors.Is(err, ErrRecreated) || errors.Is(err, ErrWentBack) {
			return err
		} else if err != nil {
			s.hindered(err)
			s.lookSoon(behindFor)
			return nil
		}
		v = s.cur.look(end, s.poll.sent, s.poll.last, time.Now())
	}
	switch {
	case v == wentBack:
		s.see(0, Witness{s.poll.last, s.poll.at})
		return ErrWentBack
	case v == again:
		s.lookSoon(behindFor)
		return nil
	}
	if s.checkLast || v == verify || s.seen.contradicts(info.State.FirstSeq, info.State.FirstTime) {
		if v == verify {
			s.doubt()
		}
		s.checkLast = false
		if err := s.compareLast(ctx); err != nil {
			return err
		}
		if !s.checkLast {
			s.clear(ctx)
		}
	}
	if !s.checkLast {
		s.see(info.State.FirstSeq, s.confirmed()...)
	}
	switch {
	case v == fill:
		s.unheard()
		s.gap(ctx)
	case v == settled || v == verify:
		s.reachLevel(end.last)
	}
	s.followed(v == settled || v == verify)
	if s.cfg.First != nil && (s.cur.last >= end.last || v == settled) {
		s.cfg.First(info.State.FirstSeq)
	}
	return nil
}

// confirmed are messages that were known before a look that found the stream to be the one that is
// followed. What is heard later may be of another already.
func (s *follower) confirmed() (all []Witness) {
	all, s.ends = s.ends, nil
	if !s.poll.at.IsZero() {
		all = append(all, Witness{s.poll.last, s.poll.at})
	}
	return all
}

// compareLast finds out whether what was last, and what was seen last and is not gone, is still there.
func (s *follower) compareLast(ctx context.Context) error {
	err := s.dispel(ctx)
	if err == nil {
		var f findings
		if f, err = find(s.seen.List(0), s.api.lookup(ctx)); f.differs > 0 {
			return ErrWentBack
		}
	}
	if err != nil && !errors.Is(err, ErrWentBack) {
		s.checkLast = true
		return nil
	}
	return err
}

// deafAfter is how many looks find messages that were not heard until that is logged.
const deafAfter = 5

// unheard notes that a look found messages, and says so where none was heard between many looks.
func (s *follower) unheard() {
	if !s.level || s.cur.ordered {
		return
	}
	if s.deaf++; s.deaf == deafAfter {
		subject := republished(s.config)
		s.log.Warn("the stream stores messages and none is heard where it republishes them, so they come up to a second late; "+
			"is the subject imported, and does it pass the leaf node's link?", "subject", subject)
	}
}

// clear is for what was suspected, where the stream is as it was: then the message that gave reason to is
// another stream's, unless the leader has it.
func (s *follower) clear(ctx context.Context) {
	w := s.suspicion
	if s.suspicion = (Witness{}); w.Sequence == 0 {
		return
	}
	if m, ok, err := s.api.lookup(ctx)(w.Sequence, false); err == nil && !(ok && m.is(w)) {
		s.guard.raise(time.Now(), doubtedFor)
		if ok {
			s.foreign(time.Now())
		}
	}
}

func (s *follower) reachLevel(seq uint64) {
	if s.level || !s.levelSet {
		return
	}
	s.level = true
	s.cfg.Handler.Level(max(seq, s.cur.last))
}

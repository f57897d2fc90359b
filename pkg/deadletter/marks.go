package deadletter

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/pkg/feed"
)

// marks are up to where a subscription's events were parked, by message id without the sequence. JetStream
// drops what is repeated within its duplicate window; an instance may be away for longer between parking an
// event and being delivered it again.
type marks struct {
	mu      sync.Mutex
	last    map[string]uint64
	unknown time.Time // nothing is looked up before
}

// stem is a message id without the sequence; empty where it has none.
func stem(id string, sequence uint64) string {
	of, numbered := strings.CutSuffix(id, "/"+strconv.FormatUint(sequence, 10))
	if sequence == 0 || !numbered {
		return ""
	}
	return of
}

// note takes an event that is parked.
func (p *marks) note(id string, sequence uint64) {
	if of := stem(id, sequence); of != "" {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.raise(of, sequence)
	}
}

func (p *marks) raise(of string, sequence uint64) {
	if p.last == nil {
		p.last = map[string]uint64{}
	}
	p.last[of] = max(p.last[of], sequence)
}

// has reports whether the stream has the event. Where nobody says so in time it is not taken to have it.
func (p *marks) has(ctx context.Context, s *Store, subject, id string, sequence uint64) bool {
	of := stem(id, sequence)
	if of == "" {
		return false
	}
	p.mu.Lock()
	last, known := p.last[of]
	unknown := time.Now().Before(p.unknown)
	p.mu.Unlock()
	if unknown && !known {
		return false
	}
	found, err := false, error(nil)
	limited, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if !known {
		last, err = s.lastParked(limited, subject, of)
	}
	if err == nil && sequence <= last {
		found, err = s.find(limited, subject, id)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		if ctx.Err() == nil {
			p.unknown = time.Now().Add(lookAgain)
		}
		return false
	}
	p.raise(of, last)
	return found
}

// lastParked is the sequence of the subscription's event that was parked last; 0: none, or of another
// selector or history.
func (s *Store) lastParked(ctx context.Context, subject, of string) (uint64, error) {
	m, err := s.direct.LeaderLast(ctx, subject)
	if errors.Is(err, feed.ErrNothing) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	rest, ok := strings.CutPrefix(m.Header.Get(nats.MsgIdHdr), of+"/")
	if !ok {
		return 0, nil
	}
	sequence, _, _ := strings.Cut(rest, "/")
	n, _ := strconv.ParseUint(sequence, 10, 64) // 0 where somebody put it there by hand
	return n, nil
}

// find reports whether an event with the id, or with one that begins with it since it was parked before, is
// there.
func (s *Store) find(ctx context.Context, subject, id string) (bool, error) {
	for from := uint64(1); ; {
		page, err := s.page(ctx, from, subject)
		if errors.Is(err, feed.ErrNothing) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		for i := range page {
			if is := page[i].Header.Get(nats.MsgIdHdr); is == id || strings.HasPrefix(is, id+"/") {
				return true, nil
			}
			from = page[i].Sequence + 1
		}
	}
}

package connect

import (
	"cmp"
	"slices"
	"time"

	"github.com/exesdb/subproxy/pkg/backoff"
)

const (
	// A server that came back is found within 200 ms, plus the time to connect; one that stays away costs
	// five to ten refused connections a second. The jitter keeps many instances from coming back in the
	// same instant.
	reconnectWait   = 100 * time.Millisecond
	reconnectJitter = 100 * time.Millisecond
	// dialTimeout is how long a server may take to accept a connection where it is the only one.
	dialTimeout = 2 * time.Second
	// dialShort is dialTimeout while other servers are left to try: an address that leads nowhere holds up
	// no longer than that. It doubles each time, since a link may be slow.
	dialShort = 300 * time.Millisecond
	// dialLongest is what doubling ends at.
	dialLongest = 10 * time.Second
	// dialsMeasured is how many times the duration of the last successful dial, a round trip, the next one
	// may take.
	dialsMeasured = 4
)

// refusals are the waits after log-ins that a server refused: it logs each, and checks the password or the
// signature of each. What mends it, a file that is replaced, ends the wait.
var refusals = backoff.Backoff{First: 250 * time.Millisecond, Max: 10 * time.Second}

// betweenServers is how long is waited between tries of two servers, in which it becomes known how the
// first ended: NATS tells of a refusal from another goroutine.
const betweenServers = 10 * time.Millisecond

// search is where a lost connection is looked for: which server is tried next, how long is waited before,
// and how long the dial may take. It is a value without clocks and network.
type search struct {
	configured map[string]bool // by host and port; the others were advertised by a server
	tries      map[string]*try // by host and port
	// current is tried, or the connection is to it; before it another may have been tried.
	current, before string
	connected       bool
	began           time.Time     // the connection was lost
	roundTrip       time.Duration // of the last dial that succeeded; 0: none did
}

// try is what became of one server.
type try struct {
	at       time.Time // of the last one
	due      time.Time // not before
	timeouts int       // in a row
	refused  int       // log-ins in a row
}

func newSearch(configured []string) *search {
	s := &search{configured: map[string]bool{}, tries: map[string]*try{}}
	for _, host := range configured {
		s.configured[host] = true
	}
	return s
}

// next says which of the servers to try, after which wait, and how long its dial may take. Jitter is in
// [0, 1). Each is tried once, those that are configured before those that were advertised, and then again
// those that were not tried for longest. One that was just lost, and one that refused, waits for its time.
func (s *search) next(servers []string, now time.Time, jitter float64) (server string, wait, timeout time.Duration) {
	pause := reconnectWait + time.Duration(jitter*float64(reconnectJitter))
	if s.connected {
		s.connected, s.began = false, now
		if t := s.tries[s.current]; t != nil {
			t.at, t.due = now, now.Add(pause)
		}
	} else if s.current != "" {
		wait = betweenServers
	}
	for _, host := range servers {
		if s.tries[host] == nil {
			s.tries[host] = &try{}
		}
	}
	server = slices.MinFunc(servers, func(a, b string) int { return s.compare(a, b, now) })
	t := s.tries[server]
	wait = max(wait, t.due.Sub(now))
	timeout = s.dialTimeout(t, len(servers))
	t.at = now.Add(wait)
	t.due = t.at.Add(pause)
	s.before, s.current = s.current, server
	return server, wait, timeout
}

// compare is below 0 where the first server is to be tried before the second one.
func (s *search) compare(a, b string, now time.Time) int {
	x, y := s.tries[a], s.tries[b]
	if early, other := x.due.After(now), y.due.After(now); early || other {
		return x.due.Compare(y.due)
	}
	return cmp.Or(s.triedAt(x).Compare(s.triedAt(y)), s.kind(a)-s.kind(b))
}

// triedAt is when a server was tried in this search; zero: it was not.
func (s *search) triedAt(t *try) time.Time {
	if t.at.Before(s.began) {
		return time.Time{}
	}
	return t.at
}

// kind is 0 for a configured server.
func (s *search) kind(server string) int {
	if s.configured[server] {
		return 0
	}
	return 1
}

func (s *search) dialTimeout(t *try, servers int) time.Duration {
	first := dialTimeout
	if servers > 1 {
		first = dialShort
	}
	first = min(max(first, dialsMeasured*s.roundTrip), dialLongest)
	return backoff.Backoff{First: first, Max: dialLongest}.After(t.timeouts + 1)
}

// timedOut says that the server that is tried did not accept the connection in time.
func (s *search) timedOut() {
	if t := s.tries[s.current]; t != nil {
		t.timeouts++
	}
}

// dialed says that the server that is tried accepted the connection, after a round trip.
func (s *search) dialed(roundTrip time.Duration) {
	s.roundTrip = roundTrip
	if t := s.tries[s.current]; t != nil {
		t.timeouts = 0
	}
}

// refused says that the server that was tried last refused the log-in.
func (s *search) refused(now time.Time, jitter float64) {
	t := s.tries[s.current]
	if t != nil && t.at.After(now) { // it is waited for
		t = s.tries[s.before]
	}
	if t == nil {
		return
	}
	t.refused++
	wait := refusals.After(t.refused)
	t.due = now.Add(wait - time.Duration(jitter*float64(wait)/2))
}

// found says that there is a connection to the server.
func (s *search) found(server string) {
	s.connected, s.current = true, server
	if s.tries[server] == nil {
		s.tries[server] = &try{}
	}
	for _, t := range s.tries {
		t.refused = 0
	}
}

// renew forgets refusals: another user, or another certificate, is tried.
func (s *search) renew() {
	for _, t := range s.tries {
		t.refused, t.due = 0, time.Time{}
	}
}

package testbed

import (
	"slices"

	"github.com/nats-io/nats-server/v2/server"
)

// state is a server's place in the meta group.
type state struct {
	Name    string   `json:"name"`
	Current bool     `json:"current"` // knows what the leader knows
	Leader  bool     `json:"leader"`
	Peers   []string `json:"peers,omitempty"` // only the leader's: on whom it can place streams
}

func stateOf(s *server.Server) state {
	st := state{Name: s.Name(), Current: s.JetStreamIsCurrent(), Leader: s.JetStreamIsLeader()}
	if st.Leader && s.JetStreamIsClustered() { // a single server is its own leader, and has no peers to ask for
		st.Peers = s.JetStreamClusterPeers()
		slices.Sort(st.Peers)
	}
	return st
}

func (s state) equal(t state) bool {
	return s.Name == t.Name && s.Current == t.Current && s.Leader == t.Leader && slices.Equal(s.Peers, t.Peers)
}

// ready reports whether these servers are a cluster that accepts streams with as many replicas: they have
// one leader, each is current with it, and it can place streams on each.
func ready(servers []state) bool {
	leader := -1
	for i, s := range servers {
		switch {
		case !s.Current:
			return false
		case s.Leader && leader >= 0:
			return false // the old leader has not heard of the new one
		case s.Leader:
			leader = i
		}
	}
	if leader < 0 {
		return false
	}
	return len(servers) == 1 || !slices.ContainsFunc(servers, func(s state) bool {
		return !slices.Contains(servers[leader].Peers, s.Name)
	})
}

package cluster

import (
	"time"

	"github.com/exesdb/subproxy/pkg/registry"
)

// content is what a key holds, as far as is known.
type content uint8

const (
	unread content = iota // not known: read it
	vacant                // deleted, or never written: whoever is first has it
	lapsed                // the bucket removed it, by TTL; its holder may live and writes again (registry.Expired)
	leased                // a record
)

// sight is what was last seen of a key that somebody has to renew.
type sight struct {
	is       content
	revision uint64 // 0: there is not even a marker
	heard    time.Time
	// silent is when the leader of the bucket said that there is nothing newer, though the holder should have renewed by
	// then; zero before. The grace counts from here: while JetStream is away nobody can renew, and nobody is dead for it.
	silent time.Time
}

// sightOf is what an entry shows of its key: a record, unless it turns out to be unreadable. The marker of an expiry is the
// leader's word that there was nothing newer; that of a deletion can expire too.
func sightOf(e *registry.Entry, before content, now time.Time) sight {
	s := sight{is: vacant, revision: e.Revision, heard: now}
	switch {
	case e.Operation == registry.Put:
		s.is = leased
	case e.Operation == registry.Expired && before != vacant:
		s.is, s.silent = lapsed, now
	}
	return s
}

// overdue is when to give up a holder that does not renew: quiet after it was heard, and then the grace. Before the grace
// begins the leader of the bucket is to be asked (ask).
func (s *sight) overdue(quiet, grace time.Duration) (at time.Time, ask bool) {
	switch {
	case !s.silent.IsZero():
		return s.silent.Add(grace), false
	case s.is == lapsed:
		return s.heard, true
	default:
		return s.heard.Add(quiet), true
	}
}

// answer is what the leader's answer to a read says.
type answer uint8

const (
	overtaken answer = iota // nothing: what was heard meanwhile is newer
	confirmed               // what was seen is still there
	newer                   // there is something else
	absent                  // there is nothing
)

// weigh judges the answer to a read. What was heard after the question was asked may be newer than the answer. What was
// heard before is not, even with a higher revision: then the bucket is another one.
func (s *sight) weigh(sent time.Time, found bool, revision uint64) answer {
	asked := s.is == unread || s.heard.Before(sent)
	switch {
	case asked && found && s.is != unread && revision == s.revision:
		return confirmed
	case found && (asked || revision > s.revision):
		return newer
	case !found && asked:
		return absent
	default:
		return overtaken
	}
}

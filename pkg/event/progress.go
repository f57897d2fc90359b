package event

import "time"

// ProgressPrefix begins the subject on which the leader of a store's emitters tells how far it is; the
// store follows as one token.
const ProgressPrefix = "exesdb.emitter.progress."

// ProgressType is the type of a Progress message.
const ProgressType = "io.exesdb.emitter.v1.progress"

// Progress is how far the emitters of a store are. A message that would be long comes in parts.
type Progress struct {
	Type          string            `json:"type"`
	ID            string            `json:"id"`
	Timestamp     time.Time         `json:"timestamp"`
	Store         string            `json:"store"`
	Emitter       string            `json:"emitter"` // the leader's name
	Term          uint64            `json:"term"`
	LastSequence  uint64            `json:"last_seq"`      // of the store
	Subscriptions int               `json:"subscriptions"` // registered
	Held          int               `json:"held"`          // of these, nobody listens on the deliver subject
	Part          int               `json:"part"`          // from 1
	Parts         int               `json:"parts"`
	Behind        map[string]uint64 `json:"behind"` // events of the store, by subscription; who is not named has them all
	// Trouble is why no event of the store is sent to anybody: a sentence for an operator. Empty: nothing
	// is in the way.
	Trouble string `json:"trouble,omitempty"`
	// Hindered is why events of the store come late or not at all: the permission that the emitter lacks,
	// and what it stops.
	Hindered string `json:"hindered,omitempty"`
	// Waiting is, by subscription, why the emitter sends it nothing though it is behind: a sentence each.
	Waiting map[string]string `json:"waiting,omitempty"`
	// PassedOver are messages of the last hour that are no events; nil: none.
	PassedOver *PassedOver `json:"passed_over,omitempty"`
	// Gaps are what subscriptions lost in the last hour, or hold at.
	Gaps map[string]Gap `json:"gaps,omitempty"`
}

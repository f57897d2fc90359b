package event

import (
	"fmt"
	"time"
)

// Gap is what a subscription lost: events that a limit of the store's stream, a purge or a deletion removed
// before it had them.
type Gap struct {
	// Events is how many of the store's events are gone, at the most: which of them the subscription wanted
	// nobody knows.
	Events uint64    `json:"events"`
	From   uint64    `json:"from"` // sequence of the store
	To     uint64    `json:"to"`
	At     time.Time `json:"at"` // when the last of it was found, UTC
}

// String says it in words.
func (g Gap) String() string {
	return fmt.Sprintf("up to %d events of the store, between sequences %d and %d, were removed from its stream before it had them", g.Events, g.From, g.To)
}

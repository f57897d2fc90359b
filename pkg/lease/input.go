package lease

import (
	"time"

	"github.com/exesdb/subproxy/pkg/kv"
)

// InputKind says what happened.
type InputKind uint8

// The kinds of inputs.
const (
	TimerDue       InputKind = iota // the time of Effects.Next has come, or the start
	EntryHeard                      // the feed shows Entry
	KeysTrimmed                     // entries below Revision are gone from the bucket
	BucketReplaced                  // the bucket is another
	Answered                        // the request has ended: Entry and Found, or Revision; Err
	FeedLevel                       // all that the bucket held was heard; a Keeper has no use for it
)

// Input is what happened to the keys that rules are about.
type Input struct {
	Kind     InputKind
	Entry    kv.Entry
	Found    bool
	Revision uint64
	Err      error
}

// Effects are what rules want done. At most one of Read and Write is asked for, and answered by an input.
type Effects struct {
	Read   string    // the key to read from the bucket's leader; empty: none
	Write  *kv.Write // a record to be written or deleted
	Ensure bool      // the bucket is gone
	Failed error     // what the operator is to know
	Next   time.Time // when the rules are to be stepped again; zero: nothing is due
}

package emitter

import (
	"context"
	"testing"
	"time"
)

func TestOwnStreamIsMadeAgainOnceItIsGoneForLong(t *testing.T) {
	now := time.Now()
	own := remaking{open: func(context.Context) error { return nil }}
	var users remaking
	for i := range 20 {
		at := now.Add(time.Duration(i) * time.Second)
		if due := own.due(at); due != (time.Duration(i)*time.Second >= remakeAfter) {
			t.Errorf("gone for %d s: %t", i, due)
		}
		if users.due(at) {
			t.Error("a stream of the user's is to be made")
		}
	}
	if own.due(now.Add(time.Minute)) {
		t.Error("it was there in between")
	}
}

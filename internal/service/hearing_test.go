package service

import (
	"errors"
	"testing"
	"time"

	"github.com/exesdb/subproxy/internal/connect"
)

func TestWhatIsLostIsRegainedByAConnectionMadeAfterIt(t *testing.T) {
	l := lost{}
	denied := func(subject string) *connect.PermissionError {
		return &connect.PermissionError{Operation: connect.Subscribing, Subject: subject, Err: errors.New("no")}
	}
	l.add(denied("_INBOX.a.*"), 3)
	l.add(denied("_INBOX.b.*"), 3)
	l.add(denied("exesdb.registry.>"), 4)
	if got := l.reasons(); len(got) != 2 {
		t.Errorf("two parts are stopped by %q", got)
	}
	if l.onlyBefore(4) || !l.onlyBefore(5) {
		t.Error("what was lost on connection 4 is sent again by connection 5")
	}
	if got := l.regain(4); len(got) != 2 || len(l) != 1 {
		t.Errorf("%v is regained, %v stands", got, l)
	}
	l.add(denied("exesdb.registry.>"), 5) // refused again
	if got := l.regain(5); len(got) != 0 || len(l) != 1 {
		t.Errorf("%v is regained, %v stands", got, l)
	}
	for i := range 2 * maxLost {
		l.add(denied("_INBOX."+string(rune('A'+i))), 5)
	}
	if len(l) != maxLost {
		t.Errorf("%d are noted", len(l))
	}
}

func TestRegainingIsTriedLessAndLessOften(t *testing.T) {
	var all []time.Duration
	for n := nextAttempt(0, 0); len(all) < 8; n = nextAttempt(n, time.Second) {
		all = append(all, regaining.After(n))
	}
	if all[0] != time.Second || all[3] != 8*time.Second || all[6] != 30*time.Second || all[7] != 30*time.Second {
		t.Errorf("%v", all)
	}
	if got := regaining.After(nextAttempt(8, regainCalm+1)); got != time.Second {
		t.Errorf("%v after a calm", got)
	}
}

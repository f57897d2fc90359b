package delivery

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Between resets the term only rises; right after one no record of before brings the old term back, and a
// leader that is heard of does.
func TestTermsOnlyRiseBetweenResets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f, now := &Fence{}, time.Unix(1, 0)
		var void, want uint64
		var voidUntil time.Time
		term := rapid.Uint64Range(0, 20)
		t.Repeat(map[string]func(*rapid.T){
			"event": func(t *rapid.T) {
				n := term.Draw(t, "term")
				f.Raise(n)
				want = max(want, n)
			},
			"record": func(t *rapid.T) {
				n := term.Draw(t, "term")
				f.Learn(n, now)
				if n > void || !now.Before(voidUntil) {
					want = max(want, n)
				}
			},
			"reset": func(t *rapid.T) {
				to := term.Draw(t, "to")
				if before := f.Reset(to, now); before != want {
					t.Fatalf("before the reset %d, want %d", before, want)
				}
				if want > to {
					void, voidUntil = max(void, want), now.Add(voidFor)
				}
				want = to
			},
			"time": func(t *rapid.T) { now = now.Add(time.Duration(rapid.IntRange(0, 90).Draw(t, "seconds")) * time.Second) },
			"": func(t *rapid.T) {
				if f.Term() != want {
					t.Fatalf("term %d, want %d", f.Term(), want)
				}
			},
		})
	})
}

package verify_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/verify"
)

var (
	self  = registration.Owner{Name: "a", ID: "SELF"}
	other = registration.Owner{Name: "b", ID: "OTHER"}
)

const timeout = 2 * time.Second

// bucket is a fake: each key's revisions from old to new, of which a replica shows all but the newest few.
type bucket struct {
	history map[string][]kv.Entry
	// behind is how many of a key's revisions the replica that answers the n-th read has not applied yet;
	// nil: none.
	behind func(read int, key string) int
	// broken is what the n-th read fails with; nil: nothing.
	broken func(read int) error
	// leaderBroken is what reads from the leader fail with.
	leaderBroken error

	reads, leaderReads int
	pages              [][]string
}

func (b *bucket) entry(key string, behind int) (kv.Entry, bool) {
	h := b.history[key]
	n := len(h) - behind
	if n <= 0 {
		return kv.Entry{}, false
	}
	return h[n-1], true
}

// begin counts a read, and fails it where that is due. A read takes a millisecond.
func (b *bucket) begin(ctx context.Context) error {
	b.reads++
	select {
	case <-time.After(time.Millisecond):
	case <-ctx.Done():
		return ctx.Err()
	}
	if b.broken != nil {
		return b.broken(b.reads)
	}
	return nil
}

func (b *bucket) lag(key string) int {
	if b.behind == nil {
		return 0
	}
	return b.behind(b.reads, key)
}

// Patience implements verify.Bucket: there is no way to it.
func (b *bucket) Patience(work time.Duration) time.Duration { return work }

func (b *bucket) Get(ctx context.Context, key string) (kv.Entry, bool, error) {
	if err := b.begin(ctx); err != nil {
		return kv.Entry{}, false, err
	}
	e, ok := b.entry(key, b.lag(key))
	return e, ok, nil
}

func (b *bucket) GetLast(ctx context.Context, keys []string, found func(kv.Entry)) error {
	b.pages = append(b.pages, slices.Clone(keys))
	err := b.begin(ctx)
	for i, key := range keys {
		if err != nil && i >= len(keys)/2 {
			return err // a failure can come after some were found
		}
		if e, ok := b.entry(key, b.lag(key)); ok {
			found(e)
		}
	}
	return err
}

func (b *bucket) GetFromLeader(_ context.Context, key string) (kv.Entry, bool, error) {
	b.leaderReads++
	if b.leaderBroken != nil {
		return kv.Entry{}, false, b.leaderBroken
	}
	e, ok := b.entry(key, 0)
	return e, ok, nil
}

func put(key string, revision uint64, o registration.Owner) kv.Entry {
	data := fmt.Sprintf(`{"store":"s","owner":{"name":%q,"id":%q}}`, o.Name, o.ID)
	return kv.Entry{Key: key, Revision: revision, Data: []byte(data)}
}

func marker(key string, revision uint64) kv.Entry {
	return kv.Entry{Key: key, Revision: revision, Operation: kv.Deleted}
}

func history(entries ...kv.Entry) map[string][]kv.Entry {
	h := map[string][]kv.Entry{}
	for _, e := range entries {
		h[e.Key] = append(h[e.Key], e)
	}
	return h
}

// until is a replica that lags until its n-th read.
func until(n, behind int) func(int, string) int {
	return func(read int, _ string) int {
		if read < n {
			return behind
		}
		return 0
	}
}

func always(behind int) func(int, string) int { return func(int, string) int { return behind } }

var errBroken = errors.New("the replica is broken")

func brokenUntil(n int) func(int) error {
	return func(read int) error {
		if read < n {
			return errBroken
		}
		return nil
	}
}

func TestReadBack(t *testing.T) {
	for _, c := range []struct {
		name   string
		bucket bucket
		want   verify.Outcome
		err    error
		within time.Duration
		leader bool // asked
	}{
		{"there at once", bucket{history: history(put("k", 7, self))}, verify.Verified, nil, time.Millisecond, false},
		{"a later revision of this instance", bucket{history: history(put("k", 9, self))}, verify.Verified, nil, time.Millisecond, false},
		{"replica that catches up", bucket{history: history(put("k", 3, other), put("k", 7, self)), behind: until(3, 1)}, verify.Verified, nil, 20 * time.Millisecond, false},
		{"new key, not on the replica yet", bucket{history: history(put("k", 7, self)), behind: until(3, 1)}, verify.Verified, nil, 20 * time.Millisecond, false},
		{"replica that never catches up, leader knows", bucket{history: history(put("k", 3, self), put("k", 7, self)), behind: always(1)}, verify.Verified, nil, 50 * time.Millisecond, true},
		{"replica that never catches up, leader away", bucket{history: history(put("k", 3, self), put("k", 7, self)), behind: always(1), leaderBroken: errBroken}, verify.Lagging, verify.ErrLagging, timeout, true},
		{"leader that itself lost the write", bucket{history: history(put("k", 3, self))}, verify.Lagging, verify.ErrLagging, timeout, true},
		{"nothing there, says the leader", bucket{history: history()}, verify.Missing, verify.ErrMissing, 50 * time.Millisecond, true},
		{"nothing there, leader away", bucket{history: history(), leaderBroken: errBroken}, verify.Missing, verify.ErrMissing, timeout, true},
		{"marker newer than the write", bucket{history: history(put("k", 7, self), marker("k", 8))}, verify.Missing, verify.ErrMissing, time.Millisecond, false},
		{"marker older than the write", bucket{history: history(marker("k", 6), put("k", 7, self)), behind: until(2, 1)}, verify.Verified, nil, 20 * time.Millisecond, false},
		{"another owner", bucket{history: history(put("k", 7, self), put("k", 8, other))}, verify.WrongOwner, verify.ErrWrongOwner, time.Millisecond, false},
		{"another owner at the same revision", bucket{history: history(put("k", 7, other))}, verify.WrongOwner, verify.ErrWrongOwner, time.Millisecond, false},
		{"garbage", bucket{history: history(kv.Entry{Key: "k", Revision: 8, Data: []byte("\x00{")})}, verify.WrongOwner, verify.ErrWrongOwner, time.Millisecond, false},
		{"unreadable, then readable", bucket{history: history(put("k", 7, self)), broken: brokenUntil(5)}, verify.Verified, nil, 100 * time.Millisecond, false},
		{"unreadable", bucket{broken: brokenUntil(1 << 30)}, verify.Unreadable, verify.ErrUnreadable, timeout, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				r := verify.ReadBack(t.Context(), &c.bucket, self.Matcher(), []verify.Expect{{Key: "k", Revision: 7}}, timeout)[0]
				if took := time.Since(began); took > c.within {
					t.Errorf("took %v, more than %v", took, c.within)
				}
				if r.Outcome != c.want || !errors.Is(r.Err, c.err) || (r.Err == nil) != (c.want == verify.Verified) {
					t.Errorf("got %v, %v", r.Outcome, r.Err)
				}
				if (c.bucket.leaderReads > 0) != c.leader {
					t.Errorf("the leader was asked %d times", c.bucket.leaderReads)
				}
			})
		})
	}
}

func TestErrorsTellWhatWasFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bucket{history: history(put("k", 8, other)), broken: brokenUntil(2)}
		r := verify.ReadBack(t.Context(), b, self.Matcher(), []verify.Expect{{Key: "k", Revision: 7}}, timeout)[0]
		if r.Found.Revision != 8 || !strings.HasSuffix(r.Err.Error(), "revision 8") {
			t.Errorf("got %+v", r)
		}
		b = &bucket{broken: brokenUntil(1 << 30)}
		r = verify.ReadBack(t.Context(), b, self.Matcher(), []verify.Expect{{Key: "k", Revision: 7}}, timeout)[0]
		if !errors.Is(r.Err, errBroken) && !errors.Is(r.Err, context.DeadlineExceeded) {
			t.Errorf("the reason is lost: %v", r.Err)
		}
	})
}

func TestManyAreReadInBoundedPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, maxRequest = 2500, 256 << 10
		b := &bucket{history: map[string][]kv.Entry{}, behind: until(4, 1)}
		expects := make([]verify.Expect, n)
		for i := range expects {
			key := fmt.Sprintf("s.by_stream.x.%05d", i)
			if i >= 1500 {
				key += strings.Repeat("y", 900) // long enough that bytes bound the page, and not the number
			}
			expects[i] = verify.Expect{Key: key, Revision: uint64(i + 1)}
			b.history[key] = []kv.Entry{put(key, uint64(i+1), self)}
		}
		for i, r := range verify.ReadBack(t.Context(), b, self.Matcher(), expects, timeout) {
			if r.Outcome != verify.Verified || r.Found.Key != expects[i].Key {
				t.Fatalf("%d: got %+v", i, r)
			}
		}
		asked := map[string]int{}
		for _, page := range b.pages {
			size := 0
			for _, key := range page {
				size += len(key)
				asked[key]++
			}
			if len(page) > kv.MaxGetLast || size > maxRequest {
				t.Errorf("a page of %d keys, %d bytes", len(page), size)
			}
		}
		if len(asked) != n || asked[expects[n-1].Key] != 1 || asked[expects[0].Key] != 2 {
			t.Errorf("%d keys asked for; the first %d times, the last %d times", len(asked), asked[expects[0].Key], asked[expects[n-1].Key])
		}
	})
}

func TestPageThatFailsLeavesTheOthersVerified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bucket{history: map[string][]kv.Entry{}, broken: func(read int) error {
			if read == 1 {
				return nil
			}
			return errBroken
		}}
		expects := make([]verify.Expect, kv.MaxGetLast+10)
		for i := range expects {
			expects[i] = verify.Expect{Key: fmt.Sprint(i), Revision: 1}
			b.history[expects[i].Key] = []kv.Entry{put(expects[i].Key, 1, self)}
		}
		results := verify.ReadBack(t.Context(), b, self.Matcher(), expects, timeout)
		for i, r := range results[:kv.MaxGetLast] {
			if r.Outcome != verify.Verified || r.Err != nil {
				t.Fatalf("%d: got %+v", i, r)
			}
		}
		if r := results[len(results)-1]; r.Outcome != verify.Unreadable || !errors.Is(r.Err, verify.ErrUnreadable) {
			t.Errorf("the last: got %+v", r)
		}
	})
}

func TestCancelledContextEndsReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		b := &bucket{history: history(put("k", 3, self)), leaderBroken: errBroken}
		began := time.Now()
		r := verify.ReadBack(ctx, b, self.Matcher(), []verify.Expect{{Key: "k", Revision: 7}}, timeout)[0]
		if took := time.Since(began); took != 50*time.Millisecond || r.Outcome != verify.Lagging && r.Outcome != verify.Unreadable || r.Err == nil {
			t.Errorf("after %v: %+v", took, r)
		}
	})
}

func TestNothingExpectedIsNothingRead(t *testing.T) {
	b := &bucket{}
	if got := verify.ReadBack(t.Context(), b, self.Matcher(), nil, timeout); len(got) != 0 || b.reads > 0 {
		t.Errorf("got %v after %d reads", got, b.reads)
	}
}

func TestOutcomesHaveNamesAndErrors(t *testing.T) {
	for o, want := range map[verify.Outcome]string{
		verify.Verified: "verified", verify.Lagging: "lagging", verify.WrongOwner: "wrong_owner", verify.Missing: "missing", verify.Unreadable: "unreadable",
	} {
		if o.String() != want || (o.Err() == nil) != (o == verify.Verified) {
			t.Errorf("%v: want %s; error %v", o, want, o.Err())
		}
	}
}

// TestVerifiedIsNeverSaidOfWhatIsNotThere lets replicas lag by any number of revisions, differently at each
// read, and reads fail, and holds each result to what the bucket finally has.
func TestVerifiedIsNeverSaidOfWhatIsNotThere(t *testing.T) {
	outer := t
	rapid.Check(t, func(t *rapid.T) {
		b := &bucket{history: map[string][]kv.Entry{}}
		var expects []verify.Expect
		revision := uint64(0)
		for i := range rapid.IntRange(1, 6).Draw(t, "keys") {
			key := fmt.Sprintf("k%d", i)
			for range rapid.IntRange(0, 4).Draw(t, "revisions") {
				revision++
				e := put(key, revision, self)
				switch rapid.IntRange(0, 4).Draw(t, "what") {
				case 0:
					e = put(key, revision, other)
				case 1:
					e = marker(key, revision)
				}
				b.history[key] = append(b.history[key], e)
			}
			expects = append(expects, verify.Expect{Key: key, Revision: rapid.Uint64Range(1, 24).Draw(t, "expected")})
		}
		// A bucket shows a revision of this instance above the expected one only if it was written after
		// it, so only the newest revision of a key may be this instance's at or above it: else Verified
		// would be right as well.
		for _, e := range expects {
			h := b.history[e.Key]
			for i := range h {
				if i < len(h)-1 && h[i].Revision >= e.Revision && h[i].Contains(self.Matcher()) {
					h[i] = put(e.Key, h[i].Revision, other)
				}
			}
		}
		lags := rapid.SliceOfN(rapid.IntRange(0, 5), 1, 30).Draw(t, "lags")
		fails := rapid.SliceOfN(rapid.IntRange(0, 3), 1, 10).Draw(t, "fails")
		b.behind = func(read int, key string) int { return lags[(read*7+len(key)+int(key[1]))%len(lags)] }
		b.broken = func(read int) error {
			if fails[read%len(fails)] == 0 {
				return errBroken
			}
			return nil
		}
		if rapid.Bool().Draw(t, "leader away") {
			b.leaderBroken = errBroken
		}
		var results []verify.Result
		synctest.Test(outer, func(t *testing.T) {
			results = verify.ReadBack(t.Context(), b, self.Matcher(), expects, timeout)
		})
		for i, r := range results {
			last, ok := b.entry(expects[i].Key, 0)
			there := ok && last.Revision >= expects[i].Revision && last.Contains(self.Matcher())
			if r.Outcome == verify.Verified && !there {
				t.Fatalf("%+v is said to be verified; the bucket has %+v", expects[i], last)
			}
			if (r.Err == nil) != (r.Outcome == verify.Verified) || !errors.Is(r.Err, r.Outcome.Err()) {
				t.Fatalf("%v with error %v", r.Outcome, r.Err)
			}
		}
	})
}

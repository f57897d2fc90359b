package link

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestWhatIsGrantedIsWithinTheBudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b Budget
		var open []int
		granted := 0
		t.Repeat(map[string]func(*rapid.T){
			"grant": func(t *rapid.T) {
				want := rapid.IntRange(1, 2*mostBytes).Draw(t, "want")
				got, idle := b.Grant(want), granted == 0
				if got == 0 && idle {
					t.Fatal("nothing is under way, and nothing is granted")
				}
				if granted += got; got > want || got > 0 && !idle && granted > b.Size() {
					t.Fatalf("%d of %d wanted; %d are granted of %d", got, want, granted, b.Size())
				}
				if got > 0 {
					open = append(open, got)
				}
			},
			"return": func(t *rapid.T) {
				if len(open) == 0 {
					t.Skip()
				}
				b.Return(open[0])
				granted -= open[0]
				open = open[1:]
			},
			"judge": func(t *rapid.T) {
				b.Judge(rapid.IntRange(1, mostBytes).Draw(t, "bytes"), durations(1, time.Minute).Draw(t, "took"), durations(1, 2*time.Second).Draw(t, "round trip"))
			},
			"lose": func(*rapid.T) { b.Lost() },
			"": func(t *rapid.T) {
				if b.Size() < leastBytes || b.Size() > mostBytes {
					t.Fatalf("a budget of %d", b.Size())
				}
			},
		})
	})
}

// over is how long the bytes take over a link of that rate that has as many before them.
func over(rate, bytes int, roundTrip time.Duration) time.Duration {
	return roundTrip + time.Duration(float64(bytes)/float64(rate)*float64(time.Second))
}

func TestBudgetFillsTheLinkAndDelaysNothingForLong(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b Budget
		rate := rapid.IntRange(100_000, 1_000_000_000).Draw(t, "bytes a second")
		roundTrip := durations(100*time.Microsecond, time.Second).Draw(t, "round trip")
		for range 100 { // two grants are always under way
			first := b.Grant(mostBytes)
			second := b.Grant(mostBytes)
			b.Judge(first, over(rate, first+second, roundTrip), roundTrip)
			b.Return(first)
			b.Return(second)
		}
		took := over(rate, b.Size(), roundTrip)
		if took > roundTrip+mostDelay+mostDelay/4 {
			t.Fatalf("%d bytes take %s", b.Size(), took)
		}
		if b.Size() < mostBytes && took < roundTrip+mostDelay/8 {
			t.Fatalf("%d bytes take only %s", b.Size(), took)
		}
	})
}

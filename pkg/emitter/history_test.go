package emitter

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/pkg/feed"
)

func TestEpochTellsHowFarTheStreamWentBack(t *testing.T) {
	for epoch, want := range map[string]uint64{
		"17": math.MaxUint64, "17-80-x": 80, laterEpoch("17", 12): 12, "17-x": math.MaxUint64, "18-80-x": math.MaxUint64,
	} {
		if got := shared(epoch, "17"); got != want {
			t.Errorf("%s: %d, want %d", epoch, got, want)
		}
	}
	for epoch, want := range map[string]bool{"17": true, laterEpoch("17", 1): true, "170": false, "1": false, "": false} {
		if ofStream(epoch, "17") != want {
			t.Errorf("%q is of stream 17: %v", epoch, !want)
		}
	}
}

func TestRecordedHistoryGoesOnWhereItIsProven(t *testing.T) {
	const all = math.MaxUint64
	back := laterEpoch("17", 80)
	for name, tc := range map[string]struct {
		recorded, created string
		c                 feed.Comparison
		epoch             string // up to the text of its own
		upTo              uint64
	}{
		"nothing recorded":                   {"", "17", feed.Comparison{}, "17", all},
		"the same":                           {"17", "17", feed.Comparison{Kinship: feed.Same, Shared: all}, "17", all},
		"restored":                           {"17", "18", feed.Comparison{Kinship: feed.Same, Shared: all}, "17", all},
		"restored, of one that went back":    {back, "18", feed.Comparison{Kinship: feed.Same, Shared: all}, back, all},
		"an older backup":                    {"17", "18", feed.Comparison{Kinship: feed.Shorter, Shared: 80}, "17-80-", 80},
		"an older backup, with more":         {back, "18", feed.Comparison{Kinship: feed.Forked, Shared: 70}, "17-70-", 70},
		"made anew":                          {"17", "18", feed.Comparison{Kinship: feed.Another}, "18", 0},
		"gone from memory":                   {"17", "17", feed.Comparison{Kinship: feed.Another}, "17-0-", 0},
		"gone from memory once more":         {back, "17", feed.Comparison{Kinship: feed.Another}, "17-0-", 0},
		"unproven, of the same creation":     {"17", "17", feed.Comparison{}, "17", all},
		"unproven, went back before":         {back, "17", feed.Comparison{}, back, all},
		"unproven, of another creation":      {"17", "18", feed.Comparison{}, "18", 0},
		"nothing recorded, whatever is said": {"", "18", feed.Comparison{Kinship: feed.Another}, "18", all},
	} {
		epoch, upTo := successor(tc.recorded, tc.created, tc.c)
		if exact := !strings.HasSuffix(tc.epoch, "-"); upTo != tc.upTo || exact && epoch != tc.epoch || !strings.HasPrefix(epoch, tc.epoch) || !exact && epoch == tc.recorded {
			t.Errorf("%s: %s, same up to %d; want %s, %d", name, epoch, upTo, tc.epoch, tc.upTo)
		}
	}
}

func TestCheckpointCountsAsFarAsItsHistoryIsTheStreams(t *testing.T) {
	same := feed.Comparison{Kinship: feed.Same, Shared: math.MaxUint64}
	for name, tc := range map[string]struct {
		point Checkpoint
		epoch string
		c     feed.Comparison
		least uint64
		at    uint64
		ok    bool
	}{
		"of this epoch":                        {Checkpoint{Sequence: 100, Epoch: "17"}, "17", feed.Comparison{}, 0, 100, true},
		"by hand":                              {Checkpoint{Sequence: 100}, "17", feed.Comparison{}, 0, 100, true},
		"before the stream went back":          {Checkpoint{Sequence: 100, Epoch: "17"}, "17-80-x", feed.Comparison{}, 0, 80, true},
		"before that, and it begins later":     {Checkpoint{Sequence: 100, Epoch: "17"}, "17-80-x", feed.Comparison{}, 90, 90, true},
		"of another creation, without witness": {Checkpoint{Sequence: 100, Epoch: "16"}, "17", feed.Comparison{}, 0, 0, false},
		"of another creation, the same":        {Checkpoint{Sequence: 100, Epoch: "16"}, "17", same, 0, 100, true},
		"of another creation, part of it":      {Checkpoint{Sequence: 100, Epoch: "16"}, "17", feed.Comparison{Kinship: feed.Forked, Shared: 60}, 0, 60, true},
		"of this creation, another":            {Checkpoint{Sequence: 100, Epoch: "17"}, "17-0-x", feed.Comparison{Kinship: feed.Another}, 0, 0, false},
		"of this creation, with a witness":     {Checkpoint{Sequence: 100, Epoch: "17-70-y"}, "17-80-x", feed.Comparison{Kinship: feed.Shorter, Shared: 75}, 0, 75, true},
	} {
		if at, ok := tc.point.placeIn(tc.epoch, tc.c, tc.least); at != tc.at || ok != tc.ok {
			t.Errorf("%s: %d, %t; want %d, %t", name, at, ok, tc.at, tc.ok)
		}
	}
}

func TestWitnessIsReadAsItWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var h history
		seq := uint64(0)
		for range rapid.IntRange(0, 5).Draw(t, "looks") {
			seq += rapid.Uint64Range(1, 1<<40).Draw(t, "stored")
			h.see([]feed.Witness{{Sequence: seq, Time: time.Unix(0, rapid.Int64Range(1, math.MaxInt64).Draw(t, "at")).UTC()}}, false)
		}
		all := h.known.List(0)
		if got := parseWitness(witnessText(all)); !slices.Equal(got, all) {
			t.Fatalf("%v was read as %v", all, got)
		}
		if ends := h.ends(false); len(ends) > 2 || len(ends) > 0 && ends[len(ends)-1] != all[len(all)-1] {
			t.Fatalf("ends %v of %v", ends, all)
		}
	})
	if got := parseWitness("", "x 7 @8 9@y 0@5 -1@3 11@12", "3@4"); witnessText(got) != "3@4 11@12" {
		t.Errorf("read %v", got)
	}
}

// While it is in doubt which history the stream holds, what is seen proves nothing of the one that was
// delivered.
func TestWhatIsSeenInDoubtIsOfTheNextHistory(t *testing.T) {
	at := func(seq uint64) feed.Witness {
		return feed.Witness{Sequence: seq, Time: time.Unix(int64(seq), 0).UTC()}
	}
	var h history
	h.begin("17", 0)
	h.see([]feed.Witness{at(1), at(90), at(100)}, false)
	h.see([]feed.Witness{at(95)}, true)
	h.heard = at(96)
	if got := witnessText(h.known.List(0)); got != witnessText([]feed.Witness{at(1), at(90), at(100)}) {
		t.Errorf("known: %s", got)
	}
	if ends := h.ends(true); ends[len(ends)-1] != at(100) {
		t.Errorf("in doubt, a checkpoint would say %v", ends)
	}
	h.begin("17-93-x", 93)
	if got := witnessText(h.known.List(0)); got != witnessText([]feed.Witness{at(1), at(90), at(95)}) || h.epoch != "17-93-x" || h.unsure != (feed.Witnesses{}) {
		t.Errorf("%s knows %s", h.epoch, got)
	}
	if ends := h.ends(false); ends[len(ends)-1] != at(96) {
		t.Errorf("a checkpoint would say %v", ends)
	}
}

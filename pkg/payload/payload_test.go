package payload

import (
	"encoding/json"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestTextIsNeverLongerInJSONThanSaid(t *testing.T) {
	for _, s := range []string{"", "a", "\x00\x1f\x7f", `"\`, "<>&", "\u2028\u2029", "é€😀", "\xff\xfe", "a\xffé"} {
		checkText(t, s)
	}
	rapid.Check(t, func(t *rapid.T) {
		checkText(t, string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")))
		checkText(t, rapid.String().Draw(t, "text"))
	})
}

func checkText(t interface {
	Fatalf(string, ...any)
}, s string) {
	data, err := json.Marshal(s)
	if err != nil || len(data)+1 > Text(s) {
		t.Fatalf("%q is %d bytes with its comma, said to be %d; %v", s, len(data)+1, Text(s), err)
	}
}

func TestPartsHaveAllItemsInOrderAndFit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		items := rapid.SliceOf(rapid.IntRange(0, 50)).Draw(t, "items")
		most, room := rapid.IntRange(1, 20).Draw(t, "most"), rapid.IntRange(1, 200).Draw(t, "room")
		parts := Parts(items, most, room, func(n *int) int { return *n })
		if all := slices.Concat(parts...); !slices.Equal(all, items) || len(parts) == 0 {
			t.Fatalf("%v became %v", items, parts)
		}
		for i, part := range parts {
			sum := 0
			for _, n := range part {
				sum += n
			}
			if len(part) > most || sum > room && len(part) > 1 || len(part) == 0 && len(items) > 0 {
				t.Fatalf("part %d of %v is %v", i, items, part)
			}
		}
	})
}

func TestRoomIsBelowWhatTheServerTakes(t *testing.T) {
	for limit, want := range map[int64]int{0: largest, Default: largest, 64 << 20: largest, 65536: 65536 - spare, 4096: 4096 - spare, 10: 1} {
		if got := Room(limit); got != want {
			t.Errorf("of %d: %d, want %d", limit, got, want)
		}
	}
}

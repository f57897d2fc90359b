package config

import (
	"strconv"
	"strings"

	"github.com/agnivade/levenshtein"
)

// suggest is `; did you mean "x"?` for the known word nearest to a wrong one, or nothing where none is
// near.
func suggest(wrong string, known []string) string {
	if near := nearest(wrong, known); near != "" {
		return "; did you mean " + strconv.Quote(near) + "?"
	}
	return ""
}

// nearest compares without case, - and _, so that heartbeatInterval finds heartbeat_interval. Beyond a
// third of its letters (two, in a short one: two letters that changed places) a word is another word.
func nearest(wrong string, known []string) string {
	plain := strings.NewReplacer("-", "", "_", "")
	fold := func(s string) string { return strings.ToLower(plain.Replace(s)) }
	wrong = fold(wrong)
	best, bestDistance := "", 0
	for _, k := range known {
		d := levenshtein.ComputeDistance(wrong, fold(k))
		if d <= min(max(2, len(fold(k))/3), len(k)-1) && (best == "" || d < bestDistance) {
			best, bestDistance = k, d
		}
	}
	return best
}

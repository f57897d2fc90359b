package config

import (
	"strconv"
	"strings"
)

// suggest is `; did you mean "x"?` for the known word nearest to a wrong one, or nothing where none is near.
func suggest(wrong string, known []string) string {
	if near := nearest(wrong, known); near != "" {
		return "; did you mean " + strconv.Quote(near) + "?"
	}
	return ""
}

// nearest compares without case, - and _, so that heartbeatInterval finds heartbeat_interval.
func nearest(wrong string, known []string) string {
	plain := strings.NewReplacer("-", "", "_", "")
	fold := func(s string) string { return strings.ToLower(plain.Replace(s)) }
	wrong = fold(wrong)
	best, bestDistance := "", 0
	for _, k := range known {
		// Beyond a third of its letters a word is another word.
		limit := min(max(1, len(fold(k))/3), len(k)-1)
		if best != "" {
			limit = min(limit, bestDistance-1)
		}
		if d, ok := distance(wrong, fold(k), limit); ok {
			best, bestDistance = k, d
		}
	}
	return best
}

// distance counts the insertions, deletions and replacements of bytes, and swaps of neighbours, from a to b, and reports
// whether limit is enough.
func distance(a, b string, limit int) (int, bool) {
	if len(a)-len(b) > limit || len(b)-len(a) > limit {
		return 0, false
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		for j := range rows[i] {
			switch {
			case i == 0 || j == 0:
				rows[i][j] = i + j
			case a[i-1] == b[j-1]:
				rows[i][j] = rows[i-1][j-1]
			default:
				rows[i][j] = 1 + min(rows[i-1][j-1], rows[i-1][j], rows[i][j-1])
			}
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	d := rows[len(a)][len(b)]
	return d, d <= limit
}

package subscription

import (
	"encoding/json"
	"strconv"
	"strings"
)

// decimal is a number of JSON, exact whatever its size: ±0.DIGITS · 10^point. Its digits have no zero at
// either end and are kept as two parts of the number's own text, so that 1e131071 is one digit here. The
// zero value is 0, and so is -0.
type decimal struct {
	negative    bool
	high, low   string
	point       int
	scale       int  // digits after the decimal point, as the number is written; negative where its exponent is larger
	unreadable  bool // the exponent has no place in PostgreSQL, nor in an int
	significant int  // number of digits
}

// parseDecimal reads a number that is JSON's.
func parseDecimal(n json.Number) decimal {
	var d decimal
	s, negative := strings.CutPrefix(string(n), "-")
	exponent := 0
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		var err error
		exponent, err = strconv.Atoi(s[i+1:])
		d.unreadable = err != nil || exponent >= maxExponent || exponent <= -maxExponent
		s = s[:i]
	}
	whole, fraction, _ := strings.Cut(s, ".")
	d.scale = len(fraction) - exponent
	whole, fraction = strings.TrimLeft(whole, "0"), strings.TrimRight(fraction, "0")
	point := len(whole)
	if whole == "" {
		low := strings.TrimLeft(fraction, "0")
		point, fraction = len(low)-len(fraction), low
	}
	if fraction == "" {
		whole = strings.TrimRight(whole, "0")
	}
	if whole == "" && fraction == "" {
		return d
	}
	d.negative, d.high, d.low, d.point, d.significant = negative, whole, fraction, point+exponent, len(whole)+len(fraction)
	return d
}

// What PostgreSQL's numeric holds (its documentation, "Numeric Types", and numeric.c of version 15). A
// number beyond is no jsonb.
const (
	maxWhole    = 131_072 // digits before the decimal point
	maxScale    = 16_383  // digits after it
	maxExponent = 1<<30 - 1
)

// storable reports whether PostgreSQL's numeric holds the number.
func storable(n json.Number) bool {
	if len(n) < maxScale && !strings.ContainsAny(string(n), "eE") {
		return true
	}
	d := parseDecimal(n)
	return !d.unreadable && d.scale <= maxScale && d.point <= maxWhole
}

func (d decimal) equal(e decimal) bool {
	if d.negative != e.negative || d.point != e.point || d.significant != e.significant {
		return false
	}
	if len(d.high) > len(e.high) {
		d, e = e, d
	}
	// high and low of the one against high and low of the other, whose high is as long or longer.
	rest := len(e.high) - len(d.high)
	return d.high == e.high[:len(d.high)] && d.low[:rest] == e.high[len(d.high):] && d.low[rest:] == e.low
}

// maxZeros is how many zeros a canonical number has beside its digits before it is written with an
// exponent.
const maxZeros = 20

// String is the canonical text of the number: without an exponent where that is short.
func (d decimal) String() string {
	digits, sign := d.high+d.low, ""
	if d.negative {
		sign = "-"
	}
	switch n := len(digits); {
	case n == 0:
		return "0"
	case d.point >= n && d.point-n <= maxZeros:
		return sign + digits + strings.Repeat("0", d.point-n)
	case d.point > 0 && d.point < n:
		return sign + digits[:d.point] + "." + digits[d.point:]
	case d.point <= 0 && -d.point <= maxZeros:
		return sign + "0." + strings.Repeat("0", -d.point) + digits
	case n == 1:
		return sign + digits + "e" + strconv.Itoa(d.point-1)
	default:
		return sign + digits[:1] + "." + digits[1:] + "e" + strconv.Itoa(d.point-1)
	}
}

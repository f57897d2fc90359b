package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// parse reads a value as it stands in the file, in the environment and in the tags. The error says what
// would be right.
func (f field) parse(s string) (reflect.Value, error) {
	switch f.kind {
	case boolean:
		switch strings.ToLower(s) {
		case "true":
			return reflect.ValueOf(true), nil
		case "false":
			return reflect.ValueOf(false), nil
		}
		return reflect.Value{}, fmt.Errorf("%s is not a truth value; write true or false", quote(s))
	case number:
		n, err := strconv.ParseInt(s, 10, strconv.IntSize)
		switch {
		case errors.Is(err, strconv.ErrRange):
			return reflect.Value{}, fmt.Errorf("%s is out of range; write %s", quote(s), f.rangeText())
		case err != nil:
			return reflect.Value{}, fmt.Errorf("%s is not a whole number; write it in decimal digits, like %s", quote(s), f.sample("1"))
		}
		return reflect.ValueOf(n), nil
	case duration:
		d, err := time.ParseDuration(s)
		if err != nil {
			return reflect.Value{}, fmt.Errorf("%s is not a duration; write it like 15s or 1m30s", quote(s))
		}
		return reflect.ValueOf(d), nil
	default:
		return reflect.ValueOf(s), nil
	}
}

// check is for a value from outside: is it in range, one of those allowed, of the right form?
func (f field) check(s string, v reflect.Value) error {
	if !f.inRange(v) {
		return fmt.Errorf("%s is out of range; write %s", s, f.rangeText())
	}
	if len(f.oneOf) > 0 && !slices.Contains(f.oneOf, s) {
		return fmt.Errorf("%s is none of %s%s", quote(s), strings.Join(f.oneOf, ", "), suggest(s, f.oneOf))
	}
	if f.format != "" && s != "" {
		return formats[f.format](s)
	}
	return nil
}

func (f field) inRange(v reflect.Value) bool {
	if f.min != "" {
		if least, err := f.parse(f.min); err == nil && v.Int() < least.Int() {
			return false
		}
	}
	if f.max != "" {
		if most, err := f.parse(f.max); err == nil && v.Int() > most.Int() {
			return false
		}
	}
	return true
}

func (f field) rangeText() string {
	switch {
	case f.min != "" && f.max != "":
		return f.min + " to " + f.max
	case f.min != "":
		return f.min + " or more"
	case len(f.oneOf) > 0:
		return "one of " + strings.Join(f.oneOf, ", ")
	default:
		return "a smaller number"
	}
}

// wanted names the kind of value in messages.
func (f field) wanted() string {
	switch f.kind {
	case boolean:
		return "true or false"
	case number:
		return "a whole number"
	case duration:
		return "a duration"
	case group, optional:
		return "a map with keys among " + strings.Join(names(f.fields), ", ")
	case list:
		return `a list, each element after a "- "`
	default:
		return "text"
	}
}

// sample is a value to show in a message.
func (f field) sample(otherwise string) string {
	for _, s := range []string{f.example, f.fallback, f.min} {
		if s != "" {
			return s
		}
	}
	return otherwise
}

// quote keeps a message on one line and readable, whatever the value is.
func quote(s string) string {
	const most = 60
	if utf8.RuneCountInString(s) > most {
		return strconv.Quote(string([]rune(s)[:most])) + "…"
	}
	return strconv.Quote(s)
}

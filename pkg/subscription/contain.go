package subscription

import (
	"encoding/json"
	"maps"
	"slices"
)

// pattern is JSON that other JSON is to contain, as PostgreSQL's jsonb @> has it: an object contains one
// whose every member it contains, an array one whose every element some element of its contains, and a
// scalar its equal.
type pattern struct {
	kind     patternKind
	scalar   any // nil, a bool or a string
	number   decimal
	text     json.Number // the number as it is written
	members  []member    // by name
	elements []pattern
}

type member struct {
	name string
	pattern
}

type patternKind uint8

const (
	isScalar patternKind = iota
	isNumber
	isObject
	isArray
)

// newPattern compiles what DecodeJSON returned.
func newPattern(value any) pattern {
	switch v := value.(type) {
	case map[string]any:
		p := pattern{kind: isObject}
		for _, name := range slices.Sorted(maps.Keys(v)) {
			p.members = append(p.members, member{name, newPattern(v[name])})
		}
		return p
	case []any:
		p := pattern{kind: isArray}
		for _, element := range v {
			p.elements = append(p.elements, newPattern(element))
		}
		return p
	case json.Number:
		return pattern{kind: isNumber, number: parseDecimal(v), text: v}
	default:
		return pattern{scalar: v}
	}
}

// in reports whether a decoded value contains the pattern. Where both are whole documents, an array
// contains a scalar that is one of its elements; deeper it does not.
func (p *pattern) in(value any) bool {
	if elements, ok := value.([]any); ok && p.kind < isObject {
		return p.inSome(elements)
	}
	return p.within(value)
}

func (p *pattern) within(value any) bool {
	switch p.kind {
	case isObject:
		members, ok := value.(map[string]any)
		if !ok || len(members) < len(p.members) {
			return false
		}
		for i := range p.members {
			m := &p.members[i]
			if got, ok := members[m.name]; !ok || !m.within(got) {
				return false
			}
		}
		return true
	case isArray:
		elements, ok := value.([]any)
		if !ok {
			return false
		}
		for i := range p.elements {
			if !p.elements[i].inSome(elements) {
				return false
			}
		}
		return true
	case isNumber:
		n, ok := value.(json.Number)
		return ok && (n == p.text || p.number.equal(parseDecimal(n)))
	default:
		switch value.(type) {
		case map[string]any, []any: // which can't be compared
			return false
		}
		return value == p.scalar
	}
}

func (p *pattern) inSome(elements []any) bool {
	for _, e := range elements {
		if p.within(e) {
			return true
		}
	}
	return false
}

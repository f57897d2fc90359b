package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one mistake, or a warning. Line and Column count from 1; Line is 0 where the mistake is in no
// place of the file. File is "environment" where a variable is at fault, which Message then names.
type Problem struct {
	File         string
	Line, Column int
	Path         string // as stores[0].subscriptions[2].type; empty where the YAML itself can't be read
	Message      string
	Warning      bool // it is no mistake, and probably not what is meant
}

func (p Problem) String() string {
	s := p.File + ": "
	if p.Line > 0 {
		s = fmt.Sprintf("%s:%d:%d: ", p.File, p.Line, p.Column)
	}
	if p.Warning {
		s += "warning: "
	}
	if p.Path != "" {
		s += p.Path + ": "
	}
	return s + p.Message
}

// Problems is every mistake of a configuration, by place; those of the environment come last.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

func (ps Problems) sort() {
	nowhere := func(p Problem) int {
		if p.Line == 0 {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(nowhere(a), nowhere(b)), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Path, b.Path))
	})
}

// place is where a value came from: the file or an environment variable.
type place struct {
	line, column int
	variable     string
}

// String ends the sentence "the first is …".
func (p place) String() string {
	if p.variable != "" {
		return p.variable
	}
	return fmt.Sprintf("on line %d", p.line)
}

package config

import "fmt"

// findings are where each value of a configuration came from, and what is wrong or doubtful about it.
type findings struct {
	file     string
	problems Problems
	warnings Problems
	warned   map[Problem]bool // without paths: a doubt about a store's defaults is one warning

	places map[string]place // of every path that the file or the environment gives
	bad    map[string]bool  // paths with a problem: what depends on their values is not checked
}

func newFindings(file string) *findings {
	return &findings{file: file, places: map[string]place{}, bad: map[string]bool{}, warned: map[Problem]bool{}}
}

// problem words what is at a place.
func (f *findings) problem(at place, path, format string, args ...any) Problem {
	p := Problem{File: f.file, Line: at.line, Column: at.column, Path: path, Message: oneLine(fmt.Sprintf(format, args...))}
	if at.variable != "" {
		p.File, p.Message = "environment", at.variable+": "+p.Message
	}
	return p
}

func (f *findings) report(at place, path, format string, args ...any) {
	f.bad[path] = true
	f.problems = append(f.problems, f.problem(at, path, format, args...))
}

// warn is for what is taken as it is written. What many subscriptions share is one warning.
func (f *findings) warn(at place, path, format string, args ...any) {
	p := f.problem(at, path, format, args...)
	p.Warning = true
	key := p
	key.Path = ""
	if f.warned[key] {
		return
	}
	f.warned[key] = true
	f.warnings = append(f.warnings, p)
}

// near is the place of a path, or of the nearest thing around it that has one.
func (f *findings) near(path string) place {
	for ; path != ""; path = parent(path) {
		if at, ok := f.places[path]; ok {
			return at
		}
	}
	return place{line: 1, column: 1}
}

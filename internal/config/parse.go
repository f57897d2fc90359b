package config

import (
	"bytes"
	"fmt"
	"os"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Load reads and parses a file. An error of the configuration is Problems; one of reading the file matches
// the errors of package fs and names the file.
func Load(path string, getenv func(string) (string, bool)) (*Config, error) {
	c, _, err := LoadWithWarnings(path, getenv)
	return c, err
}

// LoadWithWarnings is Load, and returns what is no mistake, but probably not what is meant, by place.
func LoadWithWarnings(path string, getenv func(string) (string, bool)) (*Config, Problems, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read the configuration: %w", err)
	}
	return parse(path, data, getenv)
}

// Parse reads a configuration, puts the environment over it and checks the result. Every error it returns
// is Problems. getenv is os.LookupEnv or like it; nil stands for an empty environment.
func Parse(filename string, data []byte, getenv func(string) (string, bool)) (*Config, error) {
	c, _, err := parse(filename, data, getenv)
	return c, err
}

func parse(filename string, data []byte, getenv func(string) (string, bool)) (*Config, Problems, error) {
	if getenv == nil {
		getenv = func(string) (string, bool) { return "", false }
	}
	found := newFindings(filename)
	d := &decoder{getenv: getenv, found: found}
	var c Config
	v := reflect.ValueOf(&c).Elem()
	setDefaults(schema, v)
	root, readable := d.read(data)
	d.group(schema, root, "", v)
	if readable {
		(&checker{found}).checkAll(&c)
	}
	if len(found.problems) > 0 {
		found.problems.sort()
		return nil, nil, found.problems
	}
	found.warnings.sort()
	return &c, found.warnings, nil
}

var byteOrderMark = []byte("\xef\xbb\xbf")

// read returns the file's only document, nil for an empty one, and whether the file is YAML at all.
func (d *decoder) read(data []byte) (ast.Node, bool) {
	data = bytes.TrimPrefix(data, byteOrderMark)
	if at, ok := invalidUTF8(data); ok {
		d.found.report(at, "", "this byte is not UTF-8; save the file as UTF-8")
		return nil, false
	}
	if len(data) > maxFile {
		d.found.report(place{line: 1, column: 1}, "", "the file has %d bytes, more than %d; split its subscriptions among instances", len(data), maxFile)
		return nil, false
	}
	data, d.folds = fold(data)
	if at, ok := tooDeep(data); ok {
		d.found.report(d.folds.inFile(at), "", "more than %d brackets deep or %d bytes long; write shorter lines", maxBrackets, maxLine)
		return nil, false
	}
	file, err := parseYAML(data)
	if err != nil {
		at, message := place{line: 1, column: 1}, err.Error()
		if syntax, ok := err.(yaml.Error); ok {
			message = syntax.GetMessage()
			if tk := syntax.GetToken(); tk != nil && tk.Position != nil {
				at = d.placeAt(tk.Position)
			}
		}
		d.found.report(at, "", "not YAML: %s", message)
		return nil, false
	}
	var root ast.Node
	for _, doc := range file.Docs {
		if _, directive := doc.Body.(*ast.DirectiveNode); directive || doc.Body == nil {
			continue
		}
		if root != nil {
			d.found.report(d.placeOf(doc.Body), "", "a second document; write one only, without a --- in between")
			continue
		}
		root = doc.Body
	}
	return root, true
}

// parseYAML turns a panic of the parser into an error: a file must never take down a running service on
// reload.
func parseYAML(data []byte) (file *ast.File, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the parser gave up: %v", r)
		}
	}()
	// Duplicate keys are allowed here because group reports all of them, and the parser stops at the first.
	return parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
}

func invalidUTF8(data []byte) (place, bool) {
	if utf8.Valid(data) {
		return place{}, false
	}
	at := place{line: 1, column: 1}
	for len(data) > 0 {
		r, n := utf8.DecodeRune(data)
		switch {
		case r == utf8.RuneError && n == 1:
			return at, true
		case r == '\n':
			at.line, at.column = at.line+1, 1
		default:
			at.column++
		}
		data = data[n:]
	}
	return place{}, false
}

// The parser recurses into brackets and into each "- " of a line, and nothing recovers from the end of the
// stack. No real file comes near these limits.
const (
	maxBrackets = 1000
	maxLine     = 16 << 10
)

// tooDeep counts brackets wherever they stand, in texts and comments too.
func tooDeep(data []byte) (place, bool) {
	depth, at := 0, place{line: 1, column: 1}
	for _, b := range data {
		if at.column > maxLine {
			return at, true
		}
		switch b {
		case '[', '{':
			if depth++; depth > maxBrackets {
				return at, true
			}
		case ']', '}':
			depth = max(0, depth-1)
		case '\n':
			at.line, at.column = at.line+1, 0
		}
		if utf8.RuneStart(b) {
			at.column++
		}
	}
	return place{}, false
}

// oneLine keeps a message of the parser, which may quote the file, on its line.
func oneLine(s string) string { return visible.Replace(s) }

var visible = strings.NewReplacer("\n", `\n`, "\r", `\r`, "\t", `\t`)

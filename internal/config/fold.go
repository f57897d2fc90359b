package config

import (
	"bytes"
	"encoding/json"

	"github.com/goccy/go-yaml/token"
)

// maxFile is how many bytes a file may have: 100,000 subscriptions have some 15 MiB.
const maxFile = 64 << 20

// folds says where each line of a text that was folded begins in the file. A nil one is a text that was
// not.
type folds []place

// fold breaks lines that are longer than the parser copes with (it takes the square of their length), where
// they are JSON: after the commas between values. So a file that a program wrote on one line is read as
// quickly as one with line breaks.
func fold(data []byte) ([]byte, folds) {
	if longest(data) <= maxLine {
		return data, nil
	}
	var folded bytes.Buffer
	var starts folds
	whole := json.Valid(data)
	line := 0
	for text := range bytes.Lines(data) {
		line++
		starts = append(starts, place{line: line, column: 1})
		flow, indent := 0, "\n" // from where on the line is JSON
		if !whole {
			if flow = embedded(text); flow < 0 {
				folded.Write(text)
				continue
			}
			indent += string(bytes.Repeat([]byte(" "), flow+1)) // deeper than the key that the value is of
		}
		folded.Write(text[:flow])
		quoted, column := false, 1+len([]rune(string(text[:flow])))
		for i := flow; i < len(text); i++ {
			b := text[i]
			folded.WriteByte(b)
			if b&0xc0 != 0x80 {
				column++
			}
			switch {
			case quoted && b == '\\':
				i++ // what is escaped is one byte, or begins with one
				folded.WriteByte(text[i])
				column++
			case b == '"':
				quoted = !quoted
			case b == ',' && !quoted && i+1 < len(text) && text[i+1] != '\n' && text[i+1] != '\r':
				folded.WriteString(indent)
				starts = append(starts, place{line: line, column: column - (len(indent) - 1)})
			}
		}
	}
	return folded.Bytes(), starts
}

// longest is the length of the longest line.
func longest(data []byte) (n int) {
	for line := range bytes.Lines(data) {
		n = max(n, len(line))
	}
	return n
}

// embedded is where in a long line of YAML a value in JSON begins that goes to its end; -1 where there is
// none.
func embedded(line []byte) int {
	if len(line) <= maxLine {
		return -1
	}
	at := bytes.IndexAny(line, "[{")
	if at < 0 || !json.Valid(line[at:]) {
		return -1
	}
	return at
}

// inFile is where a place in the folded text is in the file.
func (f folds) inFile(p place) place {
	if p.line > len(f) {
		return p
	}
	start := f[p.line-1]
	return place{line: start.line, column: max(1, start.column+p.column-1)}
}

// placeAt is where a position of the parser is in the file.
func (d *decoder) placeAt(p *token.Position) place {
	return d.folds.inFile(place{line: max(1, p.Line), column: max(1, p.Column)})
}

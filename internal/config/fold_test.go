package config

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

// generated is what a program writes: as much as it likes on one line. The last subscription has the
// mistake.
func generated(n int, mistake string) string {
	var b strings.Builder
	b.WriteString(`{"stores":[{"id":"é","subscriptions":[`)
	for i := range n {
		fmt.Fprintf(&b, `{"name":"n, \"%d\" - é","type":"by_stream","selector":"$all","start_version":0},`, i)
	}
	b.WriteString(`{"name":"last","type":"by_stream","selector":"$all"` + mistake + `}]}]}`)
	return b.String()
}

func TestLineOfAnyLengthIsReadWhereItIsJSON(t *testing.T) {
	const n = 400
	whole := generated(n, "")
	_, subscriptions, _ := strings.Cut(whole, `"stores":`)
	for name, file := range map[string]string{
		"one line":                  whole,
		"one line and its end":      whole + "\r\n",
		"a long line among others":  strings.Replace(strings.Replace(whole, `[{"id"`, "[\n{\"id\"", 1), `]}]}`, "]\n}\n]}\n", 1),
		"a long line in YAML":       "log:\n  level: debug\nstores: " + strings.TrimSuffix(subscriptions, "}") + "\nemitter:\n  enabled: true\n",
		"indented":                  "stores:\n  - id: é\n    subscriptions: " + strings.TrimSuffix(strings.SplitN(whole, `"subscriptions":`, 2)[1], "}]}") + "\n",
		"with line breaks, as ever": strings.ReplaceAll(whole, "},{", "},\n{"),
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Parse("f", []byte(file), nil)
			if err != nil {
				t.Fatal(err.Error()[:min(len(err.Error()), 500)])
			}
			all := c.Stores[0].Subscriptions
			if len(all) != n+1 || all[7].Name != `n, "7" - é` || all[n].Name != "last" {
				t.Errorf("%d subscriptions, the last is %+v", len(all), all[len(all)-1])
			}
		})
	}
}

func TestMistakeOnALongLineIsWhereItIs(t *testing.T) {
	for prefix, line := range map[string]int{"": 1, "# é\n": 2, "log: {level: debug}\nstores: ": 2} {
		text := generated(300, `,"nme":1`)
		if strings.HasSuffix(prefix, "stores: ") {
			text = strings.TrimSuffix(strings.TrimPrefix(text, `{"stores":`), "}")
		}
		file := prefix + text
		_, err := Parse("f", []byte(file), nil)
		last := file[strings.LastIndex(file[:strings.Index(file, `"nme"`)], "\n")+1:]
		want := fmt.Sprintf("f:%d:%d: ", line, 1+utf8.RuneCountInString(last[:strings.Index(last, `"nme"`)]))
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("after %q: want %s, got %v", prefix, want, err)
		}
	}
}

func TestFoldedJSONIsTheSame(t *testing.T) {
	text := generated(500, "")
	folded, folds := fold([]byte(text))
	if n := longest(folded); n > 200 || folds == nil {
		t.Fatalf("the longest line has %d bytes", n)
	}
	var was, is any
	if err := json.Unmarshal([]byte(text), &was); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(folded, &is); err != nil || fmt.Sprint(was) != fmt.Sprint(is) {
		t.Errorf("it is another: %v", err)
	}
	for line, one := range strings.Split(string(folded), "\n") { // each piece is found where it is said to be
		at := folds.inFile(place{line: line + 1, column: 1})
		if got := []rune(text)[at.column-1:]; at.line != 1 || !strings.HasPrefix(string(got), one) {
			t.Fatalf("line %d is not at %v", line+1, at)
		}
	}
}

func TestLongLineThatIsNotJSONIsRefused(t *testing.T) {
	for name, file := range map[string]string{
		"dashes":            strings.Repeat("- ", maxLine),
		"dashes in braces":  "{" + strings.Repeat("- ", maxLine),
		"a long string":     `{"stores":[{"id":"` + strings.Repeat("x", maxLine) + `"}]}`,
		"a string in YAML":  "stores: [{id: " + strings.Repeat("x", maxLine) + "}]",
		"brackets too deep": `{"a":` + strings.Repeat("[", maxLine) + strings.Repeat("]", maxLine) + "}",
	} {
		if _, err := Parse("f", []byte(file), nil); err == nil || !strings.Contains(err.Error(), "write shorter lines") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Parse("f", make([]byte, maxFile+1), nil); err == nil || !strings.Contains(err.Error(), "more than 67108864") {
		t.Errorf("a file that is too long: %v", err)
	}
}

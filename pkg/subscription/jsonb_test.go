package subscription

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// The table says what PostgreSQL's jsonb @> answers. To make it anew, with psql's environment (PGHOST,
// PGUSER) naming a server:
//
//	go test ./pkg/subscription -run TestContainmentIsPostgreSQLs -postgres
var ask = flag.Bool("postgres", false, "ask the PostgreSQL that psql connects to, and write testdata/jsonb.txt anew")

const jsonbTable = "testdata/jsonb.txt"

// jsonbValues are the documents of which each is looked for in each, where they begin with the same word.
var jsonbValues = strings.Fields(`
n:0 n:-0 n:0.0 n:-0.000 n:0e5 n:0e99999 n:0e1073741822 n:0e1073741823 n:0e-16383 n:0e-16384 n:0e99999999999999999999
n:1 n:1.0 n:1.00 n:1e0 n:10e-1 n:0.1e1 n:0.01E+2 n:100e-2 n:-1 n:1e-0 n:1e00000
n:12 n:12.0 n:1.2e1 n:120e-1 n:12e0 n:0.12e2 n:12.5 n:12.50 n:125e-1 n:41.50 n:4.15e1
n:9007199254740992 n:9007199254740992.0 n:9007199254740993 n:9007199254740993.0 n:9007199254740993e0 n:9007199254740992e-0
n:0.1 n:0.10 n:0.1000000000000000055511151231257827 n:0.30000000000000004 n:0.3
n:1e400 n:10e399 n:1e401 n:0.1e401 n:1e-400 n:10e-401 n:0.1e-399 n:1e-401 n:-1e400
n:1e131071 n:0.1e131072 n:1e131072 n:10e131071 n:123456e131066 n:123456e131067 n:1e-16383 n:1e-16384 n:12e-16383 n:1.0e-16383 n:100e-16385
n:1e999999999 n:1e-999999999 n:1e2147483648 n:1e99999999999999999999 n:-1e131072
n:00 n:01 n:-01 n:.5 n:5. n:1e n:1e+ n:+1 n:- n:--1 n:1x n:1.e1 n:0x10 n:NaN n:Infinity n:1e1.5 n:1_000
s:"" s:"a" s:"A" s:"é" s:"\u00e9" s:"\u00E9" s:"e\u0301" s:"\/" s:"/" s:"\\" s:"\u005c" s:"\"" s:"\u0022" s:"\n" s:"\u000a" s:"\u000A" s:"\b\f\r\t"
s:"😀" s:"\ud83d\ude00" s:"\uD83D\uDE00" s:"\ud83d" s:"\ude00" s:"\ud83dx" s:"\ud83d\ud83d" s:"\ud83d\n" s:"\ude00\ud83d" s:"\u0000" s:"a\u0000b" s:"\uFFFF" s:"\ufffd" s:"\u0001"
s:"\u12" s:"\u12g4" s:"\x" s:"\'" s:'a' s:"a s:a s:"a"" s:"a"b s:"1" s:1 s:"null" s:null s:true s:"true" s:True s:nul s:nulls s:false s:falsey
c:{} c:[] c:[[]] c:[{}] c:{"a":{}} c:{"a":[]} c:{"a":null} c:{"a":1} c:{"a":1.0} c:{"a":"1"} c:{"b":1} c:{"a":1,"b":2} c:{"b":2,"a":1.0} c:{"a":1,"a":2} c:{"a":2,"a":1} c:{"a":2}
c:{"a":[1]} c:{"a":[1,2]} c:{"a":[2,1,1]} c:{"a":[1.0]} c:{"a":[[1]]} c:{"a":{"b":1}} c:{"a":{"b":1,"c":[1,{"d":2}]}} c:{"a":{"c":[{"d":2}]}} c:{"a":{"c":[{}]}} c:{"a":{"c":[]}} c:{"a":[{"b":1},{"c":2}]} c:{"a":[{"b":1,"c":2}]} c:{"a":[{"c":2}]} c:{"a":[{"b":1},{"b":1}]}
c:[1] c:[1,1] c:[1,2] c:[2,1] c:[1.0,2e0] c:[[1]] c:[[1,2]] c:[[1],[2]] c:[[1],2] c:["a"] c:["a",1] c:[null] c:[true] c:[{"a":1}] c:[{"a":1,"b":2}] c:[{"a":1},{"b":2}] c:[[[1]]] c:1 c:2 c:"a" c:null c:true c:false c:"b" c:1.0
c:{"\u0061":1} c:{"\u0000":1} c:{"\ud800":1} c:{"":1} c:{"a":1,} c:{,} c:{"a"} c:{"a":} c:{a:1} c:{'a':1} c:{"a":1}} c:{"a":1}{} c:{"a":1}x c:[1,] c:[,1] c:[1 c:[1]] c:[1][ c:{"a":1 c:{"a":[1,2}} c:1,2 c:{"a":1}// c:[1/**/] c:undefined
d:ff d:22ff22 d:22c0a022 d:22eda08022 d:22f490808022 d:22f48fbfbf22 d:22c3a922 d:22e282ac22 d:22e28222 d:efbbbf31 d:31 d:2031 d:310a d:0931 d:0d31 d:0c31 d:0b31 d:c2a031 d:3100 d:220022 d:220122 d:221f22 d:227f22 d:22c28022 d:220922 d:220a22 d: d:20 d:22efbfbf22
`)

// document is a value of the list: as it is, or after d: in hex, for what is no text.
func document(value string) (kind byte, text string) {
	kind, text = value[0], value[2:]
	if kind == 'd' {
		data, err := hex.DecodeString(text)
		if err != nil {
			panic(err)
		}
		text = string(data)
	}
	return kind, text
}

// jsonbPairs is every pair, by number in jsonbValues.
func jsonbPairs() (pairs [][2]int) {
	for i, v := range jsonbValues {
		for j, w := range jsonbValues {
			if v[0] == w[0] {
				pairs = append(pairs, [2]int{i, j})
			}
		}
	}
	return pairs
}

// writeTable has one line for the version, then a line for each value, which are 1 where it contains the
// other, 0 where not, and ! where PostgreSQL refuses one of the two.
func writeTable(t *testing.T) {
	var sql strings.Builder
	sql.WriteString(`\set QUIET on
\pset format unaligned
\pset tuples_only on
set client_min_messages = error;
create function pg_temp.contains(v bytea, w bytea) returns text as $$
begin
  return case when convert_from(v, 'UTF8')::jsonb @> convert_from(w, 'UTF8')::jsonb then '1' else '0' end;
exception when others then
  return '!';
end $$ language plpgsql;
select version();
`)
	line := -1
	for _, p := range jsonbPairs() {
		if p[0] != line {
			if line >= 0 {
				sql.WriteString(";\n")
			}
			line = p[0]
			sql.WriteString("select ")
		} else {
			sql.WriteString(" || ")
		}
		_, v := document(jsonbValues[p[0]])
		_, w := document(jsonbValues[p[1]])
		fmt.Fprintf(&sql, `pg_temp.contains('\x%x', '\x%x')`, v, w)
	}
	sql.WriteString(";\n")
	cmd := exec.CommandContext(t.Context(), "psql", "-X", "-v", "ON_ERROR_STOP=1", "-f", "-")
	cmd.Stdin = strings.NewReader(sql.String())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("psql: %v\n%s", err, out)
	}
	if err := os.WriteFile(jsonbTable, out, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestContainmentIsPostgreSQLs(t *testing.T) {
	if *ask {
		writeTable(t)
	}
	table, err := os.ReadFile(jsonbTable)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(bytes.NewReader(table))
	lines.Buffer(nil, 1<<20)
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), "PostgreSQL ") {
		t.Fatalf("%s begins with no version", jsonbTable)
	}
	answers, at, line := "", 0, -1
	for _, p := range jsonbPairs() {
		if p[0] != line {
			if at != len(answers) || !lines.Scan() {
				t.Fatalf("%s is of other values; make it anew", jsonbTable)
			}
			line, answers, at = p[0], lines.Text(), 0
		}
		_, v := document(jsonbValues[p[0]])
		_, w := document(jsonbValues[p[1]])
		want := answers[at]
		at++
		if got := contains([]byte(v), []byte(w)); got != want {
			t.Errorf("%s @> %s: %c, and PostgreSQL's answer is %c", jsonbValues[p[0]], jsonbValues[p[1]], got, want)
		}
	}
}

func contains(value, wanted []byte) byte {
	v, ok1 := DecodeJSON(value)
	w, ok2 := DecodeJSON(wanted)
	p := newPattern(w)
	switch {
	case !ok1 || !ok2:
		return '!'
	case p.in(v):
		return '1'
	default:
		return '0'
	}
}

// The exponent of a number from outside must cost nothing.
func TestHugeNumbersAreComparedWithoutTheirZeros(t *testing.T) {
	nines := strings.Repeat("9", 20_000)
	for _, c := range []struct {
		a, b string
		want byte
	}{
		{"1e131071", "1" + strings.Repeat("0", 131_071), '1'}, {"1e131070", "1" + strings.Repeat("0", 131_071), '0'},
		{"1" + strings.Repeat("0", 131_072), "1", '!'}, {nines + "e100", nines + strings.Repeat("0", 100), '1'},
		{"0." + strings.Repeat("0", 16_382) + "1", "1e-16383", '1'}, {"0." + strings.Repeat("0", 16_383) + "1", "1", '!'},
		{"1." + strings.Repeat("0", 16_383), "1", '1'}, {"1." + strings.Repeat("0", 16_384), "1", '!'},
		{"1e" + strings.Repeat("9", 1_000_000), "1", '!'}, {"1e" + strings.Repeat("0", 1_000_000) + "1", "10", '1'},
	} {
		if got := contains([]byte(c.a), []byte(c.b)); got != c.want {
			t.Errorf("%.40s… @> %.40s…: %c, want %c", c.a, c.b, got, c.want)
		}
	}
	var equal bool
	if allocated := testing.AllocsPerRun(100, func() { equal = parseDecimal("123.4500e130000").equal(parseDecimal("12345e129998")) }); allocated > 0 || !equal {
		t.Errorf("%v allocations, equal %t", allocated, equal)
	}
}

func TestDepthIsBounded(t *testing.T) {
	nested := func(n int) []byte { return []byte(strings.Repeat("[", n) + strings.Repeat("]", n)) }
	if _, ok := DecodeJSON(nested(maxDepth)); !ok {
		t.Error("refused too early")
	}
	if _, ok := DecodeJSON(nested(4 << 20)); ok {
		t.Error("4 million levels are taken")
	}
}

func TestNumbersAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.Custom(func(t *rapid.T) string {
			n := rapid.StringMatching(`-?(0|[1-9][0-9]{0,6})(\.[0-9]{1,6})?`).Draw(t, "digits")
			if rapid.Bool().Draw(t, "exponent") {
				n += "e" + strconv.Itoa(rapid.IntRange(-12, 12).Draw(t, "e"))
			}
			return n
		})
		a := number.Draw(t, "a")
		b := rapid.OneOf(number, rapid.Just(a), rapid.Just(a+"0"), rapid.Just(parseDecimal(json.Number(a)).String())).Draw(t, "b")
		x, ok1 := new(big.Rat).SetString(a)
		y, ok2 := new(big.Rat).SetString(b)
		if !ok1 || !ok2 {
			t.Skip("a+0 behind an exponent may be too much")
		}
		da, db := parseDecimal(json.Number(a)), parseDecimal(json.Number(b))
		if got := da.equal(db); got != (x.Cmp(y) == 0) || (da.String() == db.String()) != got {
			t.Fatalf("%s (%s) and %s (%s): equal %v", a, da, b, db, got)
		}
		if back, ok := new(big.Rat).SetString(da.String()); !ok || back.Cmp(x) != 0 {
			t.Fatalf("%s is written %s", a, da)
		}
	})
}

// What encoding/json takes and PostgreSQL too is the same value for both.
func FuzzDecodeJSON(f *testing.F) {
	for _, v := range jsonbValues {
		_, text := document(v)
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		value, ok := DecodeJSON(data)
		if !ok {
			return
		}
		var other any
		d := json.NewDecoder(bytes.NewReader(data))
		d.UseNumber()
		if err := d.Decode(&other); err != nil {
			t.Fatalf("%q is taken, and is no JSON: %v", data, err)
		}
		p, q := newPattern(value), newPattern(other)
		text := p.append(nil, ByEventPayload)
		if !bytes.Equal(text, q.append(nil, ByEventPayload)) {
			t.Fatalf("%q is %s, and %s", data, text, q.append(nil, ByEventPayload))
		}
		if contains(data, text) != '1' || contains(text, data) != '1' {
			t.Fatalf("%q is not its own canonical text %q", data, text)
		}
	})
}

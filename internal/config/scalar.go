package config

import (
	"fmt"
	"net"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

var durationType = reflect.TypeFor[time.Duration]()

// scalar sets v from its default, the file, or the environment, whichever comes last, and checks it.
func (d *decoder) scalar(node ast.Node, v reflect.Value, tag reflect.StructTag, path string) {
	if text, ok := tag.Lookup("default"); ok {
		if err := set(v, text); err != nil {
			panic(fmt.Sprintf("default of %s: %v", path, err)) // a mistake in the tags, which a test finds
		}
	}
	var at *token.Position
	if node != nil {
		at = position(node)
		text, ok := scalarText(node)
		if !ok {
			d.report(path, at, "%s is not a single value; %s", describe(node), wanted(v, tag))
			return
		}
		if err := set(v, text); err != nil {
			d.report(path, at, "%v", err)
			return
		}
		d.given[path] = true
	}
	if text, ok := d.getenv(variable(path)); ok {
		if err := set(v, text); err != nil {
			d.report(path, nil, "environment variable %s: %v", variable(path), err)
			return
		}
		at, d.given[path] = nil, true
	}
	if err := check(v, tag); err != nil && d.given[path] {
		if at == nil {
			err = fmt.Errorf("environment variable %s: %w", variable(path), err)
		}
		d.report(path, at, "%v", err)
	}
}

// scalarText is a scalar's text as it was written, without its quotes.
func scalarText(node ast.Node) (string, bool) {
	switch n := node.(type) {
	case *ast.LiteralNode:
		return strings.TrimRight(n.Value.Value, "\n"), true
	case *ast.StringNode:
		return n.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return node.GetToken().Value, true
	default:
		return "", false
	}
}

func set(v reflect.Value, text string) error {
	switch {
	case v.Type() == durationType:
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is not a duration; write a number with its unit, such as 15s, 250ms or 1m30s", text)
		}
		v.SetInt(int64(d))
	case v.Kind() == reflect.String:
		v.SetString(text)
	case v.Kind() == reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil || len(text) == 1 {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		v.SetBool(b)
	default:
		n, err := strconv.ParseInt(text, 10, v.Type().Bits())
		if err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
		v.SetInt(n)
	}
	return nil
}

func wanted(v reflect.Value, tag reflect.StructTag) string {
	switch {
	case tag.Get("enum") != "":
		return "write one of " + strings.ReplaceAll(tag.Get("enum"), "|", ", ")
	case v.Type() == durationType:
		return "write a duration, such as 15s"
	case v.Kind() == reflect.String:
		return "write a string"
	case v.Kind() == reflect.Bool:
		return "write true or false"
	default:
		return "write a whole number"
	}
}

// check applies the tags' bounds to a value.
func check(v reflect.Value, tag reflect.StructTag) error {
	if enum := tag.Get("enum"); enum != "" {
		allowed := strings.Split(enum, "|")
		text := fmt.Sprint(v.Interface())
		for _, a := range allowed {
			if a == text {
				return nil
			}
		}
		return fmt.Errorf("%q is not one of %s", text, strings.Join(allowed, ", "))
	}
	if bounds := tag.Get("range"); bounds != "" {
		if err := checkRange(v, bounds); err != nil {
			return err
		}
	}
	for _, name := range strings.Split(tag.Get("check"), ",") {
		if c := checks[name]; c != nil {
			if err := c(v.String()); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkRange(v reflect.Value, bounds string) error {
	least, most, _ := strings.Cut(bounds, "..")
	low, high := reflect.New(v.Type()).Elem(), reflect.New(v.Type()).Elem()
	if set(low, least) != nil || set(high, most) != nil {
		panic("range " + bounds) // a mistake in the tags, which a test finds
	}
	switch {
	case v.Int() >= low.Int() && v.Int() <= high.Int():
		return nil
	case strings.HasSuffix(bounds, "9223372036854775807"):
		return fmt.Errorf("%v is out of range; at least %s", v.Interface(), least)
	default:
		return fmt.Errorf("%v is out of range; %s to %s", v.Interface(), least, most)
	}
}

var (
	bucketName = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	natsURL    = regexp.MustCompile(`^(nats|tls|ws|wss)://[^\s,/:]`)
	bareHost   = regexp.MustCompile(`^[^\s,/:]`) // a scheme can be left out
)

// checks are the checks that tags name. Except for required, empty is fine.
var checks = map[string]func(string) error{
	"required": func(s string) error {
		if s == "" {
			return fmt.Errorf("must not be empty")
		}
		return nil
	},
	"url": func(s string) error {
		for _, u := range strings.Split(s, ",") {
			pattern := natsURL
			if !strings.Contains(u, "://") {
				pattern = bareHost
			}
			if !pattern.MatchString(strings.TrimSpace(u)) && s != "" {
				return fmt.Errorf("%q is not a NATS URL; write nats://host:4222, several of them with commas between", u)
			}
		}
		return nil
	},
	"file": func(s string) error {
		if s == "" {
			return nil
		}
		f, err := os.Open(s)
		if err != nil {
			return fmt.Errorf("not readable: %w", err)
		}
		return f.Close()
	},
	"bucket": func(s string) error {
		if !bucketName.MatchString(s) {
			return fmt.Errorf("%q is not a bucket name; use letters, digits, _ and -", s)
		}
		return nil
	},
	"subject": func(s string) error {
		if s != "" && !literalSubject(s) {
			return fmt.Errorf("%q is not a subject; write tokens with dots between, without * and > and spaces", s)
		}
		return nil
	},
	"addr": func(s string) error {
		if s == "" {
			return nil
		}
		if _, port, err := net.SplitHostPort(s); err != nil || port == "" {
			return fmt.Errorf("%q is not host:port; write for example 127.0.0.1:8080", s)
		}
		return nil
	},
}

func literalSubject(s string) bool {
	for _, t := range strings.Split(s, ".") {
		if t == "" || strings.ContainsAny(t, "*> \t\r\n") {
			return false
		}
	}
	return true
}

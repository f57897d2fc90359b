package config

import (
	"fmt"
	"reflect"
	"strings"
	"time"
)

type kind int

const (
	text kind = iota
	boolean
	number
	duration
	group    // struct
	optional // *struct
	list     // []struct
)

// field is one key of the configuration, as the tags of config.go describe it.
type field struct {
	index  int
	name   string
	kind   kind
	fields []field // of group, optional and the elements of list

	doc, fallback, example string
	min, max               string
	oneOf                  []string
	format                 string
	required               bool
	from                   string // the sibling whose values each element of the list starts with
}

var schema = fieldsOf(reflect.TypeFor[Config]())

func fieldsOf(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		sf := t.Field(i)
		f := field{
			index: i, name: sf.Tag.Get("yaml"), doc: sf.Tag.Get("doc"), fallback: sf.Tag.Get("default"),
			example: sf.Tag.Get("example"), min: sf.Tag.Get("min"), max: sf.Tag.Get("max"),
			oneOf: strings.Fields(sf.Tag.Get("oneof")), format: sf.Tag.Get("format"),
			required: sf.Tag.Get("required") == "true", from: sf.Tag.Get("from"),
		}
		f.kind = kindOf(sf.Type)
		switch f.kind {
		case group:
			f.fields = fieldsOf(sf.Type)
		case optional, list:
			f.fields = fieldsOf(sf.Type.Elem())
		}
		fields = append(fields, f)
	}
	return fields
}

func kindOf(t reflect.Type) kind {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return duration
	case t.Kind() == reflect.Bool:
		return boolean
	case t.Kind() == reflect.Int, t.Kind() == reflect.Int64:
		return number
	case t.Kind() == reflect.Struct:
		return group
	case t.Kind() == reflect.Pointer:
		return optional
	case t.Kind() == reflect.Slice:
		return list
	default:
		return text
	}
}

// setDefaults fills a new struct. Lists stay empty and optional groups absent.
func setDefaults(fields []field, v reflect.Value) {
	for _, f := range fields {
		switch f.kind {
		case group:
			setDefaults(f.fields, v.Field(f.index))
		case optional, list:
		default:
			if value, err := f.parse(f.fallback); err == nil {
				v.Field(f.index).Set(value.Convert(v.Field(f.index).Type()))
			}
		}
	}
}

func names(fields []field) []string {
	all := make([]string, len(fields))
	for i, f := range fields {
		all[i] = f.name
	}
	return all
}

// variable is the environment's name for a path: stores[0].id is SUBPROXY_STORES_0_ID.
func variable(path string) string {
	return "SUBPROXY_" + strings.ToUpper(pathToVariable.Replace(path))
}

var pathToVariable = strings.NewReplacer(".", "_", "[", "_", "]", "")

// parent is the path around a path: "" around nats, stores around stores[0].
func parent(path string) string { return path[:max(0, strings.LastIndexAny(path, ".["))] }

func child(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func element(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

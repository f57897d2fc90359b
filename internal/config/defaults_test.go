package config

import (
	"bytes"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func written(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	if err := WriteDefaults(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestWrittenDefaultsParseToDefaultAndTheExample(t *testing.T) {
	got := mustParse(t, written(t), nil)
	if diff := cmp.Diff(Greenhouse(), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	got.Stores = nil
	if diff := cmp.Diff(Default(), got); diff != "" {
		t.Errorf("without stores (-want +got):\n%s", diff)
	}
	if strings.Contains(written(t), "name: "+Default().Instance.Name+"\n") {
		t.Error("the host's name is no default")
	}
}

func TestWrittenDefaultsAreComplete(t *testing.T) {
	lines := strings.Split(written(t), "\n")
	everyScalar(schema, "", func(path string, f field) {
		i := slices.IndexFunc(lines, func(l string) bool { return strings.HasSuffix(l, "; "+variable(path)) })
		if i < 1 {
			t.Errorf("%s has no line with its variable", path)
			return
		}
		about, setting := lines[i], strings.TrimLeft(lines[i+1], "# -")
		if !strings.HasSuffix(lines[i-1], f.doc) || !strings.HasPrefix(setting, f.name+":") {
			t.Errorf("%s: %q between %q and %q", path, about, lines[i-1], setting)
		}
		for _, part := range append([]string{f.min, f.max, f.fallback}, f.oneOf...) {
			if !strings.Contains(about, part) {
				t.Errorf("%s: %q lacks %q", path, about, part)
			}
		}
	})
}

func TestSettingsThatAreOffCanBeSwitchedOn(t *testing.T) {
	off := regexp.MustCompile(`(?m)^( *)#((?:  )*(?:- )?[a-z_]+:(?: |$))`)
	got := mustParse(t, off.ReplaceAllString(written(t), "$1$2"), nil)
	want := Greenhouse()
	want.Bridge.Streams = []BridgeStream{{Stream: "EVENTS", Store: "greenhouse_tycoon", Event: "leader_changed"}}
	store := &want.Stores[0]
	store.Defaults.Forward = store.Subscriptions[0].Forward
	for i := range store.Subscriptions {
		store.Subscriptions[i].Forward = store.Defaults.Forward
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestExampleIsSharedByNobody(t *testing.T) {
	a := Greenhouse()
	a.Stores[0].Subscriptions[0].Forward.Subject = "changed"
	if Greenhouse().Stores[0].Subscriptions[0].Forward.Subject == "changed" {
		t.Error("Greenhouse returns a shared value")
	}
}

// TestWhatIsWrittenIsRead: whatever text a name or selector is, quoting it and parsing it are each other's
// inverse.
func TestWhatIsWrittenIsRead(t *testing.T) {
	name := rapid.StringMatching(`[\x21-\x7eäß€ \\"'#:{}\[\],&*!|>%@-]{1,40}`).Filter(func(s string) bool {
		return strings.TrimSpace(s) == s && s != ""
	})
	rapid.Check(t, func(t *rapid.T) {
		want := Greenhouse()
		want.Stores[0].ID = name.Draw(t, "id")
		want.Stores[0].Subscriptions[0].Name = name.Draw(t, "name")
		want.Stores[0].Subscriptions[0].Selector = name.Draw(t, "selector")
		want.Stores[0].Subscriptions[1].StartVersion = rapid.Int64Min(-1).Draw(t, "start version")
		var r renderer
		r.group(schema, reflect.ValueOf(want).Elem(), "", "")
		got, err := Parse("f.yaml", r.out.Bytes(), nil)
		if err != nil {
			t.Fatalf("%v\n%s", err, r.out.String())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

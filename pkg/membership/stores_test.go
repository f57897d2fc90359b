package membership

import (
	"encoding/json"
	"fmt"
	"testing"
)

func TestStoresAreASetThatJSONKeeps(t *testing.T) {
	many := make([]string, maxStores+1)
	for i := range many {
		many[i] = fmt.Sprint(i)
	}
	for name, c := range map[string]struct {
		ids       []string
		has, lack string
		text      string
	}{
		"some":     {[]string{"b,c", "a", "a"}, "b,c", "c", `["a","b,c"]`},
		"none":     {nil, "", "a", `[]`},
		"too many": {many, "whatever", "", `[]`},
	} {
		s := NewStores(c.ids)
		if c.has != "" && !s.Has(c.has) || c.lack != "" && s.Has(c.lack) {
			t.Errorf("%s: %q has %q: %t, %q: %t", name, s, c.has, s.Has(c.has), c.lack, s.Has(c.lack))
		}
		data, err := json.Marshal(Member{Name: "m", Stores: s})
		var back Member
		if err == nil {
			err = json.Unmarshal(data, &back)
		}
		if err != nil || back.Stores != s {
			t.Errorf("%s: %s is read as %q, %v; was %q", name, data, back.Stores, err, s)
		}
		if data, err := json.Marshal(s); err != nil || string(data) != c.text {
			t.Errorf("%s: %s, %v", name, data, err)
		}
	}
}

func TestStoresThatAreTooLongStandForEveryStore(t *testing.T) {
	s := NewStores([]string{"a", "b"})
	if got := s.Within(len(`["a","b"]`)); got != s {
		t.Errorf("got %q", got)
	}
	if got := s.Within(len(`["a","b"]`) - 1); got != "" || !got.Has("c") {
		t.Errorf("got %q", got)
	}
}

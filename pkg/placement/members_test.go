package placement

import (
	"slices"
	"testing"

	"github.com/exesdb/subproxy/pkg/registration"
)

func TestStoreIsSharedWithThoseThatHaveIt(t *testing.T) {
	has := func(stores ...string) func(string) bool {
		return func(store string) bool { return slices.Contains(stores, store) }
	}
	self := registration.Owner{Name: "a", ID: "a1"}
	all := NewMembers(self, []Member{{Name: "a", Has: has("s", "t")}, {Name: "b", Has: has("t")}, {Name: "c"}, {Name: "d", Has: has()}}, func(registration.Owner) Liveness { return Alive })
	for store, want := range map[string][]string{"s": {"a", "c"}, "t": {"a", "b", "c"}, "u": {"c"}} {
		var got []string
		for _, m := range all.Of(store).rendezvous.shares {
			got = append(got, m.name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s is shared among %v, want %v", store, got, want)
		}
	}
}

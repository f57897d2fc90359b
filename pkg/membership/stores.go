package membership

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/exesdb/subproxy/pkg/subscription"
)

// Stores is a set of store ids, in JSON an array; the zero value has every store. It is comparable: the ids
// as tokens, each between commas, in order.
type Stores string

// maxStores is how many a record names. An instance that has more shares with everybody: the record is
// written some times a second, and read by all.
const maxStores = 200

// NewStores makes a set.
func NewStores(ids []string) Stores {
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	if len(ids) > maxStores {
		return ""
	}
	var b strings.Builder
	b.WriteByte(',')
	for _, id := range ids {
		b.WriteString(subscription.EncodeToken(id))
		b.WriteByte(',')
	}
	return Stores(b.String())
}

// Within is the set where it takes no more than room bytes in JSON, else that of every store: a record that
// the server does not take is no record.
func (s Stores) Within(room int) Stores {
	if data, err := json.Marshal(s); err != nil || len(data) > room {
		return ""
	}
	return s
}

// Has reports whether the store is in the set.
func (s Stores) Has(id string) bool {
	return s == "" || strings.Contains(string(s), ","+subscription.EncodeToken(id)+",")
}

// MarshalJSON implements json.Marshaler.
func (s Stores) MarshalJSON() ([]byte, error) {
	ids := []string{}
	for token := range strings.FieldsFuncSeq(string(s), func(r rune) bool { return r == ',' }) {
		id, err := subscription.DecodeToken(token)
		if err != nil {
			return nil, fmt.Errorf("store %q: %w", token, err)
		}
		ids = append(ids, id)
	}
	return json.Marshal(ids)
}

// UnmarshalJSON implements json.Unmarshaler.
func (s *Stores) UnmarshalJSON(data []byte) error {
	var ids []string
	if err := json.Unmarshal(data, &ids); err != nil {
		return err
	}
	*s = NewStores(slices.DeleteFunc(ids, func(id string) bool { return id == "" }))
	return nil
}

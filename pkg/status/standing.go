package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// StandingPrefix begins the keys of standing alerts in the cluster bucket.
const StandingPrefix = "alert."

// Standing is an alert that was raised and is not resolved, as the cluster bucket has it: whoever raised it
// may be gone, and then another run resolves it.
type Standing struct {
	Scope string             `json:"scope"`
	Store string             `json:"store"`
	Name  string             `json:"name,omitempty"` // of the subscription; absent in scope store
	Level Level              `json:"level"`
	Owner registration.Owner `json:"owner"` // the instance that raised it
	Since time.Time          `json:"since"`
}

// ErrNoStanding is returned for a value that is no standing alert, or not that of its key.
var ErrNoStanding = errors.New("malformed standing alert")

// Standing is what is written down of an alert while it stands.
func (a *Alert) Standing() Standing {
	return Standing{Scope: a.Scope, Store: a.Store, Name: a.Name, Level: a.Level, Owner: a.Owner, Since: a.Timestamp}
}

// Key is where it is written: of a subscription there is one alert, and of a store one of each instance.
func (s *Standing) Key() string {
	last := s.Name
	if s.Scope == "store" {
		last = s.Owner.Name
	}
	return StandingPrefix + s.Scope + "." + subscription.EncodeToken(s.Store) + "." + subscription.EncodeToken(last)
}

// DecodeStanding reads the value under a key.
func DecodeStanding(key string, data []byte) (s Standing, err error) {
	if err := json.Unmarshal(data, &s); err != nil {
		return Standing{}, fmt.Errorf("%w: %w", ErrNoStanding, err)
	}
	if s.Owner.ID == "" || s.Store == "" || s.Key() != key {
		return Standing{}, fmt.Errorf("%w under %s", ErrNoStanding, key)
	}
	return s, nil
}

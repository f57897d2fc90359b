package service

import (
	"errors"
	"testing"

	"github.com/exesdb/subproxy/pkg/control"
)

func TestDrainIsAnsweredByTheInstanceThatIsMeant(t *testing.T) {
	s := startService(t, "host a")
	m := control.NewClient(s.connections.main)
	var refused *control.RefusedError
	for instance, code := range map[string]string{"": control.CodeBadRequest} {
		if _, err := m.Drain(t.Context(), instance, false); !errors.As(err, &refused) || refused.Code != code {
			t.Errorf("%q: %v", instance, err)
		}
	}
	for _, undo := range []bool{false, true} {
		a, err := m.Drain(t.Context(), "host a", undo)
		if held, _ := s.instance.Session().Member(); err != nil || a.Draining == undo || held.Draining == undo || a.Instance.ID != s.owner.ID || a.Type != control.DrainAnswerType {
			t.Errorf("undo %t: %+v, %v", undo, a, err)
		}
	}
}

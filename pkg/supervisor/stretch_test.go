package supervisor

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/exesdb/subproxy/pkg/status"
)

func TestSubscriptionsOfAllStoresStretchTheTimersOfEach(t *testing.T) {
	bubble(t, func(t *testing.T) {
		settings := testSettings
		settings.InitialInterval, settings.NormalInterval = time.Minute, time.Minute
		r := newRig(t, settings, 2000)
		defer r.stop()
		subs := testSubscriptions(4000)
		for i := range subs[2000:] {
			subs[2000+i].Store = "other"
		}
		r.Apply(subs)
		synctest.Wait()
		other := func(st status.Status) bool {
			wait := time.Until(*st.NextAttemptAt)
			return st.Store != "other" || wait >= 108*time.Second && wait <= 132*time.Second // twice a minute, 10 % either way
		}
		r.require(4000, "due in two minutes", other)
		r.Apply(subs[:10])
		synctest.Wait()
		if got := r.loops.some("s")[0].rules().NormalInterval; got != time.Minute {
			t.Errorf("%v after the others were taken away", got)
		}
	})
}

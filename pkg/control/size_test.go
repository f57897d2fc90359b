package control

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/exesdb/subproxy/pkg/status"
)

// TestSizeIsNeverBelowTheJSON fills every field that there is, so that a new one which Size does not count
// is found.
func TestSizeIsNeverBelowTheJSON(t *testing.T) {
	for _, text := range []string{"", strings.Repeat("a", 2000), strings.Repeat("\x00<>&\"\\\u2028\xffé", 200)} {
		var s status.Status
		var l Listed
		var h status.Handed
		var i Instance
		for _, v := range []any{&s, &l, &h, &i} {
			fill(reflect.ValueOf(v).Elem(), text)
		}
		for _, c := range []struct {
			value any
			size  int
		}{
			{s, s.Size()}, {l, l.Size()}, {h, h.Size()},
			{StatusAnswer{Envelope: status.NewEnvelope(StatusAnswerType, widestTime), Instance: i, Part: math.MaxInt, Parts: math.MaxInt}, i.Size()},
			{ActionAnswer{Envelope: status.NewEnvelope(ActionAnswerType, widestTime), Instance: i, Affected: math.MinInt, Verified: math.MinInt}, i.Size()},
		} {
			data, err := json.Marshal(c.value)
			if err != nil || len(data)+1 > c.size {
				t.Errorf("%T is %d bytes, said to be %d at the most; %v", c.value, len(data), c.size, err)
			}
		}
	}
}

var widestTime = time.Date(2026, 11, 30, 12, 13, 14, 123456789, time.FixedZone("far", 3661))

func fill(v reflect.Value, text string) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Int, reflect.Int64:
		v.SetInt(math.MinInt64)
	case reflect.Uint64:
		v.SetUint(math.MaxUint64)
	case reflect.Float64:
		v.SetFloat(-1.2345678901234567e-300)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), text)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(widestTime))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i), text)
		}
	}
}

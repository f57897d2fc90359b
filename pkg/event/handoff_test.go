package event

import "testing"

func TestAnswersAreReadAsTheyWereWritten(t *testing.T) {
	for want, a := range map[string]Answer{
		"+ACK":                      {Kind: Acked},
		"+ACK 17":                   {Kind: Acked, Number: 17},
		"-NAK 0":                    {Kind: Missing},
		"-NAK 18446744073709551615": {Kind: Missing, Number: 1<<64 - 1},
		"-ERR stale_term 42":        {Kind: StaleTerm, Number: 42},
		"-ERR gone":                 {Kind: Gone},
		"-ERR malformed":            {Kind: Malformed},
	} {
		if got := string(a.Encode()); got != want {
			t.Errorf("%+v is sent as %q, want %q", a, got, want)
		}
		if got, ok := ParseAnswer([]byte(want)); !ok || got != a {
			t.Errorf("%q is read as %+v, %v", want, got, ok)
		}
	}
}

func FuzzParseAnswer(f *testing.F) {
	for _, seed := range []string{"", "+ACK", "+ACK 1", "+ACK ", "+ACK 01", "+ACK -1", "-NAK 7", "-ERR stale_term 9", "-ERR", "-ERR malformed"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if a, ok := ParseAnswer(data); ok && string(a.Encode()) != string(data) && a != (Answer{Kind: Acked}) {
			t.Errorf("%q is read as %+v and written as %q", data, a, a.Encode())
		}
	})
}

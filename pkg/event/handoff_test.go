package event

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
)

func TestAnswersAreReadAsTheyWereWritten(t *testing.T) {
	for want, a := range map[string]Answer{
		"+ACK":                      {Kind: Acked},
		"+ACK 0":                    {Kind: Unaccepted},
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

func TestHandoffIsReadWhateverTheCaseOfItsHeaders(t *testing.T) {
	for _, spelt := range []func(string) string{strings.Clone, strings.ToLower, strings.ToUpper} {
		m := &nats.Msg{Data: []byte("x"), Header: nats.Header{
			spelt(SequenceHeader): {"9"}, spelt(PrevHeader): {"7"}, spelt(TermHeader): {"42"}, "Exesdb-Sequel": {"1"},
		}}
		h, numbered, err := ReadHandoff(m)
		if err != nil || !numbered || h.Sequence != 9 || h.Prev != 7 || h.Term != 42 {
			t.Errorf("%v is read as %+v, %t, %v", m.Header, h, numbered, err)
		}
		if len(m.Header) != 4 || m.Header[SequenceHeader] == nil || m.Header[PrevHeader] == nil || m.Header[TermHeader] == nil {
			t.Errorf("what is forwarded is spelt %v", m.Header)
		}
		question := &nats.Msg{Header: nats.Header{spelt(SequenceHeader): {"0"}, spelt(EpochHeader): {"e"}}}
		if h, numbered, err := ReadHandoff(question); err != nil || !numbered || h.Sequence != 0 || question.Header.Get(EpochHeader) != "e" {
			t.Errorf("%v is read as %+v, %t, %v", question.Header, h, numbered, err)
		}
	}
	if _, numbered, err := ReadHandoff(&nats.Msg{Header: nats.Header{TermHeader: {"x"}}}); numbered || err != nil {
		t.Errorf("without a sequence: %t, %v", numbered, err)
	}
}

func TestHandoffThatCannotBeReadIsAnError(t *testing.T) {
	for _, n := range []string{"", "+9", "09", "00", "-1", " 9", "9 ", "9.0", "1e3", "0x9", "1_0", "18446744073709551616", "\u0669"} {
		for _, name := range []string{SequenceHeader, PrevHeader, TermHeader} {
			m := &nats.Msg{Header: nats.Header{SequenceHeader: {"9"}}}
			m.Header[name] = []string{n}
			if h, numbered, err := ReadHandoff(m); err == nil || !numbered || !strings.Contains(err.Error(), name) {
				t.Errorf("%s: %q is read as %+v, %t, %v", name, n, h, numbered, err)
			}
		}
	}
	if _, _, err := ReadHandoff(&nats.Msg{Header: nats.Header{SequenceHeader: {"0"}}, Data: []byte("x")}); err == nil {
		t.Error("a question that has data is read")
	}
}

func TestHandoffOfAnotherStoreIsNotThisOnes(t *testing.T) {
	h := nats.Header{"exesdb-prev": {"7"}, "EXESDB-EPOCH": {"e"}, "Exesdb-Seq": {"1"}, "Exesdb-Incarnation": {"3"}, "exesdb-area": {"12"}, "ce-id": {"a"}}
	if stripped(h); len(h) != 2 || h["exesdb-area"] == nil || h["ce-id"] == nil {
		t.Errorf("left are %v", h)
	}
}

func BenchmarkReadHandoff(b *testing.B) {
	m := &nats.Msg{Header: nats.Header{SequenceHeader: {"912345"}, PrevHeader: {"712345"}, TermHeader: {"42"}, IDHeader: {"a"}, TypeHeader: {"b"}}}
	b.ReportAllocs()
	for b.Loop() {
		_, _, _ = ReadHandoff(m)
	}
}

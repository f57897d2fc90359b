package subscription

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestTokensAreWrittenAsTheContractSays(t *testing.T) {
	for name, token := range map[string]string{
		"$all":                      "=24all",
		"greenhouse_initialized:v1": "greenhouse_initialized=3Av1",
		"plain_Name-1":              "plain_Name-1",
		"a.b*c>d e":                 "a=2Eb=2Ac=3Ed=20e",
		"=":                         "=3D",
		"é":                         "=C3=A9",
	} {
		if got := EncodeToken(name); got != token {
			t.Errorf("EncodeToken(%q) = %q, want %q", name, got, token)
		}
		if got, err := DecodeToken(token); err != nil || got != name {
			t.Errorf("DecodeToken(%q) = %q, %v, want %q", token, got, err, name)
		}
	}
}

func TestTokensThatEncodeCannotMakeAreRefused(t *testing.T) {
	for _, token := range []string{"", "=", "=2", "=2a", "=41", "a.b", "a b", "=GG", "x=3"} {
		if name, err := DecodeToken(token); !errors.Is(err, ErrBadToken) {
			t.Errorf("DecodeToken(%q) = %q, %v, want ErrBadToken", token, name, err)
		}
	}
}

func TestTokensAreReversible(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := string(rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "name"))
		token := EncodeToken(name)
		if !legalToken(token) {
			t.Fatalf("EncodeToken(%q) = %q is not a legal token", name, token)
		}
		if back, err := DecodeToken(token); err != nil || back != name {
			t.Fatalf("%q -> %q -> %q, %v", name, token, back, err)
		}
	})
}

func TestKeysAreReversible(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringN(1, 30, 60)
		s := Subscription{Store: text.Draw(t, "store"), Type: rapid.SampledFrom([]Type{ByStream, ByEventType}).Draw(t, "type"), Selector: text.Draw(t, "selector"), Name: text.Draw(t, "name")}
		if got, err := ParseKey(s.Key()); err != nil || got != s {
			t.Fatalf("ParseKey(%q) = %+v, %v, want %+v", s.Key(), got, err, s)
		}
	})
}

func TestValidateNamesWhatIsWrong(t *testing.T) {
	good := Subscription{Store: "s", Type: ByEventType, Selector: "e:v1", Name: "n"}
	if err := good.Validate(); err != nil {
		t.Fatalf("a good subscription: %v", err)
	}
	for want, change := range map[error]func(*Subscription){
		ErrEmptyName:       func(s *Subscription) { s.Name = "" },
		ErrUnknownType:     func(s *Subscription) { s.Type = "by_magic" },
		ErrBadSelector:     func(s *Subscription) { s.Type, s.Selector = ByEventPayload, "[1]" },
		ErrBadStartVersion: func(s *Subscription) { s.StartVersion = -2 },
		ErrKeyTooLong:      func(s *Subscription) { s.Selector = strings.Repeat("x", MaxKeyLength) },
	} {
		s := good
		change(&s)
		if err := s.Validate(); !errors.Is(err, want) {
			t.Errorf("Validate() = %v, want %v", err, want)
		}
	}
}

func TestTopicNamesSubscriptions(t *testing.T) {
	s := Subscription{Store: "s", Type: ByEventType, Selector: "greenhouse_initialized:v1", Name: "to_pubsub"}
	all := Subscription{Store: "s", Type: ByStream, Selector: "$all", Name: "audit"}
	for _, c := range []struct {
		s     Subscription
		topic string
		want  bool
	}{
		{s, "", true}, {s, "greenhouse_initialized:v1", true}, {s, "$to_pubsub", true}, {s, "*to_pubsub-greenhouse_initialized:v1", true},
		{s, "$all", false}, {s, "$other", false}, {s, "*to_pubsub-other", false}, {s, "other", false}, {s, "*", false}, {s, "$", false},
		{all, "$all", true}, {all, "$audit", true}, {all, "*audit-$all", true}, {all, "", true}, {all, "$to_pubsub", false},
	} {
		if got := c.s.NamedBy(c.topic); got != c.want {
			t.Errorf("%s named by %q: %v, want %v", c.s, c.topic, got, c.want)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	for _, key := range []string{"greenhouse_tycoon.by_event_type.greenhouse_initialized=3Av1.n", "a.by_stream.=24all.b", "", "...", "a.b.c.d", "a.by_event_payload.=7B=7D.b"} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		s, err := ParseKey(key)
		if err != nil {
			return
		}
		if s.Key() != key {
			t.Fatalf("%q parsed to %+v, whose key is %q", key, s, s.Key())
		}
	})
}

func FuzzToken(f *testing.F) {
	for _, name := range []string{"$all", "", "=", "=2", "=3A", "\xff", "a.b"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if name != "" {
			if back, err := DecodeToken(EncodeToken(name)); err != nil || back != name {
				t.Fatalf("%q came back as %q, %v", name, back, err)
			}
		}
		if decoded, err := DecodeToken(name); err == nil && EncodeToken(decoded) != name {
			t.Fatalf("token %q decodes to %q, which encodes to %q", name, decoded, EncodeToken(decoded))
		}
	})
}

func legalToken(token string) bool {
	return token != "" && !strings.ContainsAny(token, ".*> \t\r\n/") && strings.IndexFunc(token, func(r rune) bool { return r > 126 || r < 33 }) < 0
}

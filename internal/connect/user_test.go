package connect_test

import (
	"path/filepath"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/exesdb/subproxy/internal/connect"
)

// TestEveryWayToSayWhoConnects has servers that know one user each, and options and contexts that name that
// user.
func TestEveryWayToSayWhoConnects(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	public, seed := userKey(t)
	jwtFile, trust := userJWT(t, public)
	seedFile := write(t, filepath.Join(t.TempDir(), "user.nk"), seed)
	for name, c := range map[string]struct {
		configure func(*server.Options)
		o         connect.Options
		context   map[string]any
	}{
		"user": {
			withUsers(&server.User{Username: "u", Password: "p"}), connect.Options{User: "u", Password: "p"}, map[string]any{"user": "u", "password": "p"},
		},
		"token": {
			func(o *server.Options) { o.Authorization = "t0ken" }, connect.Options{Token: "t0ken"}, map[string]any{"token": "t0ken"},
		},
		"nkey": {
			func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: public}} }, connect.Options{NKey: seedFile}, map[string]any{"nkey": seedFile},
		},
		"user_jwt": {
			trust, connect.Options{UserJWT: jwtFile, UserSeed: seedFile}, map[string]any{"user_jwt": jwtFile, "user_seed": seedFile},
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := start(t, c.configure)
			c.o.URL = n.URL()
			dial(t, c.o)
			c.context["url"] = n.URL()
			writeContext(t, name, c.context, true)
			dial(t, connect.Options{Context: name})
			dial(t, connect.Options{UseSelectedContext: true})
			// What the options say goes before the context, whatever way that names a user.
			writeContext(t, "other", map[string]any{"user": "nobody", "password": "none"}, false)
			c.o.Context = "other"
			dial(t, c.o)
		})
	}
}

func userKey(t *testing.T) (public string, seed []byte) {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	if public, err = pair.PublicKey(); err != nil {
		t.Fatal(err)
	}
	if seed, err = pair.Seed(); err != nil {
		t.Fatal(err)
	}
	return public, seed
}

// userJWT is a file with the user's JWT, and servers that trust the operator of the user's account.
func userJWT(t *testing.T, user string) (file string, trust func(*server.Options)) {
	t.Helper()
	operator, err := nkeys.CreateOperator()
	if err != nil {
		t.Fatal(err)
	}
	account, err := nkeys.CreateAccount()
	if err != nil {
		t.Fatal(err)
	}
	operatorKey, _ := operator.PublicKey() // of a pair that was just made
	accountKey, _ := account.PublicKey()
	accountJWT, err := jwt.NewAccountClaims(accountKey).Encode(operator)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.NewUserClaims(user).Encode(account)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, filepath.Join(t.TempDir(), "user.jwt"), []byte(text)), func(o *server.Options) {
		resolver := &server.MemAccResolver{}
		_ = resolver.Store(accountKey, accountJWT) // in memory
		o.TrustedKeys, o.AccountResolver, o.JetStream = []string{operatorKey}, resolver, false
	}
}

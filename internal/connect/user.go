package connect

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// namesUser reports whether the options themselves say who connects; then the context does not.
func (o *Options) namesUser() bool {
	return o.Credentials != "" || o.User != "" || o.Token != "" || o.NKey != "" || o.UserJWT != ""
}

// nobody takes away who connects by the context.
func nobody(no *nats.Options) error {
	no.User, no.Password, no.Token, no.Nkey, no.UserJWT, no.SignatureCB = "", "", "", "", nil, nil
	return nil
}

// user says who connects, in every way but a credentials file.
func (o *Options) user() (opts []nats.Option) {
	if o.User != "" {
		opts = append(opts, nats.UserInfo(o.User, o.Password))
	}
	if o.Token != "" {
		opts = append(opts, nats.Token(o.Token))
	}
	if o.NKey != "" {
		opts = append(opts, withNKey(o.NKey))
	}
	jwt, seed := o.UserJWT, o.UserSeed
	if !o.namesUser() && o.usesContext() {
		jwt, seed = contextJWT(o.Context)
	}
	if jwt != "" {
		opts = append(opts, nats.UserJWT(func() (string, error) { return readSecret(jwt) }, func(nonce []byte) ([]byte, error) { return sign(seed, nonce) }))
	}
	return opts
}

// withNKey fails with the connection where the file has no seed.
func withNKey(file string) nats.Option {
	return func(no *nats.Options) error {
		option, err := nats.NkeyOptionFromSeed(file)
		if err != nil {
			return err
		}
		return option(no)
	}
}

// contextJWT are the files of a context of the nats CLI that has a user's JWT. The package natscontext
// leaves them out.
func contextJWT(name string) (jwt, seed string) {
	file := name
	if !filepath.IsAbs(name) {
		directory := os.Getenv("XDG_CONFIG_HOME")
		if home, err := os.UserHomeDir(); directory == "" && err == nil {
			directory = filepath.Join(home, ".config")
		}
		if name == "" {
			selected, err := os.ReadFile(filepath.Join(directory, "nats", "context.txt"))
			if name = strings.TrimSpace(string(selected)); err != nil || name == "" {
				return "", ""
			}
		}
		file = filepath.Join(directory, "nats", "context", name+".json")
	}
	var settings struct {
		JWT  string `json:"user_jwt"`
		Seed string `json:"user_seed"`
	}
	if content, err := os.ReadFile(file); err != nil || json.Unmarshal(content, &settings) != nil {
		return "", "" // natscontext, which reads the file too, says what is wrong with it
	}
	return strings.TrimPrefix(settings.JWT, "file://"), strings.TrimPrefix(settings.Seed, "file://")
}

// readSecret reads a file that has nothing but a JWT or a seed, at each connect anew.
func readSecret(file string) (string, error) {
	content, err := os.ReadFile(file)
	return strings.TrimSpace(string(content)), err
}

func sign(seedFile string, nonce []byte) ([]byte, error) {
	seed, err := readSecret(seedFile)
	if err != nil {
		return nil, err
	}
	pair, err := nkeys.FromSeed([]byte(seed))
	if err != nil {
		return nil, err
	}
	defer pair.Wipe()
	return pair.Sign(nonce)
}

package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"github.com/exesdb/subproxy/pkg/event"
)

// formats are what the format tag can name. An empty value has been dealt with before. The errors say what
// would be right.
var formats = map[string]func(string) error{
	"bucket":   bucketName,
	"file":     readableFile,
	"hostport": hostPort,
	"name":     outsideName,
	"servers":  serverURLs,
	"stream":   streamName,
	"subject":  literalSubject,
	"token":    oneToken,
}

// JetStream takes stream names of 255 bytes; a bucket's stream is called KV_ and its name.
const (
	maxStreamName = 255
	maxBucketName = maxStreamName - len("KV_")
)

var bucketPattern = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

func bucketName(s string) error {
	if !bucketPattern.MatchString(s) || len(s) > maxBucketName {
		return fmt.Errorf("%s is not a bucket name; write up to %d of A-Z a-z 0-9 _ -", quote(s), maxBucketName)
	}
	return nil
}

func streamName(s string) error {
	odd := func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r) || strings.ContainsRune(`.*>/\`, r)
	}
	if strings.ContainsFunc(s, odd) || len(s) > maxStreamName {
		return fmt.Errorf(`%s is not a stream name; write up to %d bytes without white space and without . * > / \`, quote(s), maxStreamName)
	}
	return nil
}

func literalSubject(s string) error {
	switch {
	case strings.ContainsAny(s, "*>"):
		return fmt.Errorf("%s has a wildcard; write a literal subject, like app.events.greenhouse", quote(s))
	case !event.ValidSubject(s), strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
		return fmt.Errorf("%s is not a NATS subject; write tokens without white space, joined by single dots, like app.events.greenhouse", quote(s))
	}
	return nil
}

func oneToken(s string) error {
	if err := literalSubject(s); err != nil || strings.Contains(s, ".") {
		return fmt.Errorf("%s is no single token of a subject; write it without white space, dots and wildcards, like hub", quote(s))
	}
	return nil
}

// outsideName lets every name through that a person can have meant: white space around it, as a YAML block
// leaves behind it, would become part of the registration's key.
func outsideName(s string) error {
	if strings.TrimSpace(s) != s {
		return fmt.Errorf("%s begins or ends with white space; take it away (a YAML block ends without it after |- or >-)", quote(s))
	}
	return nil
}

func hostPort(s string) error {
	_, port, err := net.SplitHostPort(s)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("%s is not host:port; write it like 127.0.0.1:8080 or :8080", quote(s))
	}
	return nil
}

// serverURLs names a bad URL by its position only: it may hold a password.
func serverURLs(s string) error {
	for i, server := range strings.Split(s, ",") {
		server = strings.TrimSpace(server)
		if !strings.Contains(server, "://") {
			server = "nats://" + server
		}
		u, err := url.Parse(server)
		if err != nil || u.Hostname() == "" {
			return fmt.Errorf("URL %d of the list is not a URL; write it like nats://127.0.0.1:4222", i+1)
		}
		switch u.Scheme {
		case "nats", "tls", "ws", "wss":
		default:
			return fmt.Errorf("URL %d of the list has scheme %s; write nats, tls, ws or wss", i+1, quote(u.Scheme))
		}
	}
	return nil
}

// readableFile opens, but does not read: the file may be a pipe that is to be read once.
func readableFile(s string) error {
	f, err := os.Open(s)
	if err == nil {
		var info os.FileInfo
		if info, err = f.Stat(); err == nil && info.IsDir() {
			err = errors.New("a directory")
		}
		_ = f.Close()
	}
	if err == nil {
		return nil
	}
	var cause *os.PathError
	if errors.As(err, &cause) {
		err = cause.Err
	}
	return fmt.Errorf("%s can't be read (%w); name a file that this process may read", quote(s), err)
}

package natsnode

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/nats-io/nats-server/v2/server"
)

// serverLog is the logger of a server: it passes warnings and errors on, and keeps the first fatal error
// for Start.
type serverLog struct {
	logger *slog.Logger
	fatal  chan string // one place; never closed
}

var _ server.Logger = (*serverLog)(nil)

func (l *serverLog) log(level slog.Level, format string, args ...any) {
	if l.logger != nil {
		l.logger.Log(context.Background(), level, "nats-server: "+fmt.Sprintf(format, args...))
	}
}

// Fatalf keeps the error. Start returns it, so it is not logged.
func (l *serverLog) Fatalf(format string, args ...any) {
	select {
	case l.fatal <- fmt.Sprintf(format, args...):
	default:
	}
}

// Errorf passes an error on.
func (l *serverLog) Errorf(format string, args ...any) { l.log(slog.LevelError, format, args...) }

// Warnf passes a warning on.
func (l *serverLog) Warnf(format string, args ...any) { l.log(slog.LevelWarn, format, args...) }

// Noticef is silent.
func (l *serverLog) Noticef(string, ...any) {}

// Debugf is silent.
func (l *serverLog) Debugf(string, ...any) {}

// Tracef is silent.
func (l *serverLog) Tracef(string, ...any) {}

package natsnode

import (
	"errors"
	"syscall"
)

func childAttributes() *syscall.SysProcAttr { return nil }

func pause(*child) error { return errors.ErrUnsupported }

func resume(*child) error { return errors.ErrUnsupported }

package testbed

import (
	"errors"
	"syscall"
)

func attributes() *syscall.SysProcAttr { return nil }

func pause(*Process) error { return errors.ErrUnsupported }

func resume(*Process) error { return errors.ErrUnsupported }

// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"github.com/niodoo/niodoo_exporter/internal/incident"
)

// incidentArg declares the argument that names an incident.
func incidentArg(c *kingpin.CmdClause) *string {
	return c.Arg("incident", "The incident's id, such as INC-20261124-020000; see incident list.").Required().String()
}

// byFlag declares the flag that names who acts.
func byFlag(c *kingpin.CmdClause) *string {
	return c.Flag("by", "Who does it; the user of this shell without it.").String()
}

// who returns who acts: what the flag says, or the person behind sudo, or the user.
func who(flag string) string {
	name := cmp.Or(strings.TrimSpace(flag), os.Getenv("SUDO_USER"))
	if name == "" {
		if u, err := user.Current(); err == nil {
			name = u.Username
		}
	}
	return cmp.Or(name, "unknown")
}

// incidents returns the store of incidents, made up for what was killed.
func (e *env) incidents(ctx context.Context) (incident.Store, error) {
	s := incident.Store{Dir: e.cfg.Operations.StateDir}
	if err := s.Prepare(); err != nil {
		return s, err
	}
	return s, s.Reconcile(ctx)
}

// incidentError turns a mistake in an id into one of the command line.
func incidentError(err error) error {
	if errors.Is(err, incident.ErrUnknown) || errors.Is(err, incident.ErrClosed) || errors.Is(err, incident.ErrNotAnID) {
		return usageError("%w; see niodooctl incident list --all", err)
	}
	return err
}

// incidentNow is the time to write into a timeline.
func (e *env) incidentNow() time.Time { return e.now().UTC().Truncate(time.Millisecond) }

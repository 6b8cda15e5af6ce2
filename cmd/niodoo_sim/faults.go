// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"slices"

	"github.com/niodoo/niodoo_exporter/internal/sim"
)

// labFault is a fault of something that is not simulated.
type labFault struct {
	name, component, does string
	// begin brings it into effect and returns what ends it; nil is nothing to do.
	// Its context ends when the fault is lifted, and with it what begin has started.
	begin func(ctx context.Context, l *lab) (end func() error, err error)
}

// labFaults are the faults of the parts that a lab has. Without a lab they are
// all there are, to be listed.
func labFaults(l *lab) []sim.Fault {
	var faults []sim.Fault
	for _, part := range []struct {
		there  bool
		faults []labFault
	}{
		{l == nil || l.postgres != nil, postgresFaults},
		{l == nil || l.wire != nil, wireFaults},
		{l == nil || l.redis != nil, redisFaults},
		{l == nil || l.front != nil, certificateFaults},
		{l == nil || l.machine != nil, slices.Concat(machineFaults, heartFaults)},
		{l == nil || l.machine != nil && l.machine.disk != "", diskFaults},
		{l == nil || l.exporter != nil && l.exporter.clock != nil, clockFaults},
		{true, slices.Concat(logFaults, backupFaults, operationsFaults)},
		{l == nil || l.exporter != nil, exporterFaults},
	} {
		if !part.there {
			continue
		}
		for _, f := range part.faults {
			faults = append(faults, l.fault(f))
		}
	}
	return faults
}

func (l *lab) fault(f labFault) sim.Fault {
	var cancel context.CancelFunc
	var end func() error
	return sim.Fault{Name: f.name, Component: f.component, Does: f.does,
		Inject: func() (err error) {
			var ctx context.Context
			ctx, cancel = context.WithCancel(l.ctx)
			if end, err = f.begin(ctx, l); err != nil {
				cancel()
			}
			return err
		},
		Lift: func() error {
			cancel()
			if end == nil {
				return nil
			}
			return end()
		}}
}

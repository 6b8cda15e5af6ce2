// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"maps"
	"net"
	"net/mail"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	// maxOpenIncidents is how many the index of incidents holds.
	maxOpenIncidents = 1000
	maxPeers         = 16
	minInterval      = 100 * time.Millisecond
)

var (
	priorities = []string{"P1", "P2", "P3", "P4"}
	unitRE     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9:_.\\@-]*\.(service|socket|target|timer|slice|scope|mount|path)$`)
	// containerRE is what Docker itself allows.
	containerRE = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)
	peerRE      = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,63}$`)
)

// incident validates the section of that name.
func (d *decoder) incident() {
	c := d.cfg.Incident
	d.positive("incident.evidence_timeout", c.Timeout)
	d.positive("incident.recovery", c.Recovery)
	d.paths("incident.repositories", c.Repositories...)
	for _, u := range c.Units {
		d.unit("incident.units", u)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Restart)) {
		key, t := "incident.restart."+name, c.Restart[name]
		switch {
		case !isSection(name) || info(name).Local:
			d.errorf(key, "%q is no component; valid here: %s", name, strings.Join(componentNames(), ", "))
		case (t.Unit == "") == (t.Container == ""):
			d.errorf(key, "write either unit: NAME.service or container: NAME")
		case t.Unit != "":
			d.unit(key+".unit", t.Unit)
		case !containerRE.MatchString(t.Container):
			d.errorf(key+".container", "%q is not the name of a container", t.Container)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(c.Escalation)) {
		key := "incident.escalation." + p
		if !slices.Contains(priorities, p) {
			d.errorf(key, "%q is no priority; valid here: %s", p, strings.Join(priorities, ", "))
		}
		for _, a := range c.Escalation[p] {
			if _, err := mail.ParseAddress(a); err != nil {
				d.errorf(key, "%q is not a mail address", a)
			}
		}
	}
	d.incidentListen(c.Listen)
}

func (d *decoder) incidentListen(l IncidentListen) {
	const key = "incident.listen"
	if _, _, err := net.SplitHostPort(l.Address); err != nil {
		d.errorf(key+".address", "%q: write HOST:PORT, or :PORT for every address", l.Address)
	}
	if l.WebConfigFile != "" {
		d.paths(key+".web_config_file", l.WebConfigFile)
	}
	if l.MaxOpen < 1 || l.MaxOpen > maxOpenIncidents {
		d.errorf(key+".max_open", "is %d; write a number from 1 to %d", l.MaxOpen, maxOpenIncidents)
	}
	if l.Quiet < 0 {
		d.errorf(key+".quiet", "must not be negative")
	}
	if l.Interval < duration(minInterval) {
		d.errorf(key+".interval", "must be at least %s", minInterval)
	}
	if l.Silence != 0 && l.Silence < 2*l.Interval {
		d.errorf(key+".silence", "must be at least twice the interval of %s, or 0 for the threshold heartbeat_seconds", l.Interval)
	}
	if len(l.Peers) > maxPeers {
		d.errorf(key+".peers", "has %d; %d is the most", len(l.Peers), maxPeers)
	}
	for _, name := range slices.Sorted(maps.Keys(l.Peers)) {
		k, p := key+".peers."+name, l.Peers[name]
		if !peerRE.MatchString(name) || name == "watchdog" {
			d.errorf(k, "%q is not a name: write small letters, digits, '_', '.' and '-'; watchdog is taken", name)
		}
		d.url(k+".url", p.URL)
		d.auth(k, p.Authorization, p.BasicAuth)
		d.tls(k, &p.TLSConfig)
	}
}

func (d *decoder) unit(key, name string) {
	if !unitRE.MatchString(name) {
		d.errorf(key, "%q is not the name of a systemd unit with its type, such as niodoo.service", name)
	}
}

// componentNames are the names of the sections that are components.
func componentNames() []string {
	var names []string
	for _, i := range Sections {
		if !i.Local {
			names = append(names, i.Name)
		}
	}
	return names
}
